"""The page that `w2wpp explore` serves: people to sample, blend, edit, invert and compare, and to take home as files.

Acts of a visitor are functions of `visit`, which call what the Python API offers; `page` alone knows Gradio.
"""
