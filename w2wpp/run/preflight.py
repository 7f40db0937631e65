"""A check for all inputs of a zoo from elsewhere, before anything runs instead of hours later."""

from pathlib import Path

from w2wpp.diffusion.hub import find_model
from w2wpp.diffusion.pretrained import FILES as BASE_FILES
from w2wpp.evaluation.gallery import EvaluateParams
from w2wpp.evaluation.prompt_alignment import FILES as CLIP_FILES
from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.photos import check_people
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import printable
from w2wpp.ingest.w2w_source import find_files
from w2wpp.run.params import Params
from w2wpp.world.base_model import BaseParams


def check_sources(params: Params) -> None:
    """Find base model, LoRAs, photos, recognisers and CLIP model, and download models if allowed (see `find_model`).

    Raises:
        InputError: naming the first missing input and where to put it.
    """
    if params.base.source == "pretrained":
        assert params.base.model is not None  # BaseParams sees to it
        find_model(params.base.model, params.base.revision, BASE_FILES, BaseParams)
    if params.collect.source == "w2w":
        find_files(params.collect.path)
    else:
        assert params.collect.path is not None  # CollectParams sees to it
        if not Path(params.collect.path).is_dir():
            raise InputError(
                "params.yaml",
                "collect.path",
                f"no such folder: {printable(params.collect.path)}",
                "Give a folder of LoRAs of the base model",
            )
    if params.portraits.source == "rendered":
        return
    check_people(params.portraits, "portraits")
    load_face_finder(params.faces)
    for recognizer in sorted({params.recognizer, params.second_recognizer} - {"arcface"}):
        load_recognizer(recognizer)
    if params.evaluate.prompt_alignment == "clip":
        find_model(params.evaluate.clip, params.evaluate.clip_revision, CLIP_FILES, EvaluateParams, "clip")
