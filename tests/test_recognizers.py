"""Recognisers are named by their specs."""

import pytest

from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.errors import InputError


@pytest.mark.parametrize("spec", ["facenet", "insightface:", "", None])
def test_unknown_recognisers_are_refused(spec):
    with pytest.raises(InputError, match=r"^argument: recognizer: unknown recogniser .*Use dlib, insightface:<pack"):
        load_recognizer(spec)
