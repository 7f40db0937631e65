class InputError(Exception):
    pass
