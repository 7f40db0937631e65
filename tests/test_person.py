"""The Python API: people are read, sampled, blended, drawn and inverted, on a tiny base model and space."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import w2wpp
from w2wpp import GenerateParams, InvertParams
from w2wpp.api import person as people
from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import generate
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.spaces.affine import PCASpace

FEW = GenerateParams(inference_steps=2)
AS_IT_IS = w2wpp.PhotoOptions(framing="none")


@pytest.fixture(scope="module")
def space(layout, draw_weights, make_space) -> PCASpace:
    """Four directions in which A and B change."""
    return make_space(
        layout, draw_weights(layout, 4, seed=4, size=1.0) - initial_weights(layout, 4), draw_weights(layout, 1)[0]
    )


@pytest.fixture(scope="module")
def shared(layout, draw_weights, make_space) -> PCASpace:
    """Four directions in which B alone changes, as in the shipped world."""
    directions = draw_weights(layout, 4, seed=4, size=1.0) * layout.in_B
    return make_space(layout, directions, draw_weights(layout, 1)[0])


def test_names_are_found_where_the_pipeline_leaves_them(repro):
    space, base = w2wpp.load_space("pca"), w2wpp.load_base()
    assert space.latent_dim == 4 and base.unet.config.sample_size == 4
    assert torch.equal(w2wpp.load_space(repro / "data/spaces/pca/space.safetensors").mean, space.mean)
    assert w2wpp.load_base(repro / "data/base").unet.config.sample_size == 4


@pytest.mark.parametrize(
    ("load", "where", "words"),
    [
        (
            "load_space",
            "vae",
            r"space: no data/spaces/vae/space\.safetensors in the current dir.* Run `make repro`.*: pca",
        ),
        ("load_space", "other/space.safetensors", r"space: no such file: other/space\.safetensors"),
        ("load_space", "data/base/model_index.json", r"not a readable safetensors file"),
        ("load_base", "data/spaces", r"base: no model_index\.json in data/spaces"),
        ("load_base", "nowhere", r"base: no such folder: nowhere"),
    ],
)
def test_what_is_missing_is_one_clear_error(repro, load, where, words):
    with pytest.raises(InputError, match=words) as caught:
        getattr(w2wpp, load)(where)
    assert "\n" not in str(caught.value)


def test_a_clone_without_artifacts_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (w2wpp.load_base, w2wpp.load_space):
        with pytest.raises(ArgumentError, match="Run `make repro`"):
            load()


def test_encode_and_decode_are_the_spaces_own(space, draw_weights, layout, normal):
    weights, z = draw_weights(layout, 3, seed=9), normal(3, 4)
    assert torch.equal(w2wpp.encode(weights, space), space.encode(weights))
    assert torch.equal(w2wpp.decode(z, space), space.decode(z))
    assert w2wpp.encode(weights[0], space).shape == (4,) and w2wpp.decode(z[0], space).shape == (layout.dimension,)
    torch.testing.assert_close(w2wpp.encode(w2wpp.decode(z[0].double(), space), space), z[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "numbers", "key"),
    [
        (w2wpp.encode, torch.zeros(7), "weights"),
        (w2wpp.decode, torch.zeros(2, 5), "z"),
        (w2wpp.decode, torch.zeros(1, 1, 4), "z"),
        (w2wpp.decode, torch.full((4,), torch.nan), "z"),
        (w2wpp.Person.at, torch.zeros(2, 4), "z"),
    ],
)
def test_numbers_that_are_no_point_are_refused(space, call, numbers, key):
    with pytest.raises(ArgumentError) as caught:
        call(numbers, space)
    assert caught.value.key == key


def test_samples_are_points_of_the_prior(space):
    sampled = [w2wpp.sample(space, seed) for seed in range(200)]
    z = torch.stack([person.z for person in sampled])
    assert abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.1
    assert torch.equal(w2wpp.sample(space, 3).z, z[3]) and len(z.unique(dim=0)) == 200
    torch.testing.assert_close(sampled[5].weights, space.decode(z)[5])
    for seed in (-1, 0.5):
        with pytest.raises(ArgumentError, match="seed"):
            w2wpp.sample(space, seed)


@pytest.fixture(scope="module")
def completing(space, layout, draw_weights, make_space) -> PCASpace:
    """The same directions, with donors from beyond them."""
    again = make_space(layout, space.components.clone(), space.mean.clone())
    again.keep_donors(draw_weights(layout, 5, seed=11, size=1.0))
    return again


def test_samples_have_what_the_space_leaves_out_and_keep_it_in_blends(completing):
    first, second = w2wpp.sample(completing, 1), w2wpp.sample(completing, 2)
    z, weights = completing.sample(1, step_generator(1, 0))
    assert torch.equal(first.z, z[0]) and torch.equal(first.weights, weights[0])
    assert (first.weights - completing.decode(first.z[None])[0]).abs().max() > 1e-2
    torch.testing.assert_close(w2wpp.encode(first.weights, completing), first.z, atol=1e-2, rtol=1e-2)
    for share in (0.0, 0.25, 1.0):
        blend = w2wpp.blend(first, second, share)
        torch.testing.assert_close(blend.weights, torch.lerp(first.weights, second.weights, share))
        torch.testing.assert_close(blend.z, torch.lerp(first.z, second.z, share))


def test_blends_lie_on_the_line(space):
    first, second = w2wpp.sample(space, 1), w2wpp.sample(space, 2)
    for share in (0.0, 0.25, 1.0, 1.5):
        blend = w2wpp.blend(first, second, share)
        torch.testing.assert_close(blend.z, first.z + share * (second.z - first.z))
        torch.testing.assert_close(blend.weights, first.weights + share * (second.weights - first.weights))


def test_people_of_two_spaces_do_not_blend(space, shared, tmp_path):
    first = w2wpp.sample(space, 1)
    with pytest.raises(ArgumentError, match="second: of another space"):
        w2wpp.blend(first, w2wpp.sample(shared, 1))
    first.save(tmp_path / "first.safetensors")
    with pytest.raises(ArgumentError, match="first: a LoRA of no space"):
        w2wpp.blend(w2wpp.load_lora(tmp_path / "first.safetensors"), first)
    space.save(tmp_path / "space.safetensors")  # the same space, read again
    again = w2wpp.load_space(tmp_path / "space.safetensors")
    torch.testing.assert_close(w2wpp.blend(first, w2wpp.sample(again, 1)).z, first.z)


def test_a_saved_person_comes_back(space, tmp_path, monkeypatch):
    person = w2wpp.sample(space, 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    person.save("~/deep/er/person.safetensors")
    assert torch.equal(w2wpp.load_lora("~/deep/er/person.safetensors").weights, person.weights)
    alone = w2wpp.load_lora(tmp_path / "deep/er/person.safetensors")
    assert torch.equal(alone.weights, person.weights) and alone.layout == person.layout
    assert not isinstance(alone, w2wpp.Person)
    found = w2wpp.load_lora(tmp_path / "deep/er/person.safetensors", space)
    assert torch.equal(found.weights, person.weights)
    torch.testing.assert_close(found.z, person.z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("format", ["kohya", "peft", "diffusers"])
def test_where_all_share_one_A_any_tools_file_finds_its_point(shared, tmp_path, format):
    """A and B of other tools are another pair with the same product: here A, B and their order are mixed up."""
    person = w2wpp.sample(shared, 1)
    file = tmp_path / ("lora/adapter_model.safetensors" if format == "peft" else "lora.safetensors")
    mixed = person.weights.clone()
    for down, up in shared.layout.split(mixed[None]).values():
        down.mul_(-3.0)
        up.div_(-3.0)
    export_lora(file.parent if format == "peft" else file, mixed, shared.layout, format)
    if format == "diffusers":  # as another tool would name it, without our metadata
        from safetensors.torch import load_file, save_file

        tensors = load_file(file)
        alphas = {f"unet.{layer.module}.alpha": torch.tensor(shared.layout.alpha) for layer in shared.layout.layers}
        save_file(tensors | alphas, file)
    found = w2wpp.load_lora(file, shared)
    torch.testing.assert_close(found.z, person.z, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.weights, person.weights, atol=1e-4, rtol=1e-4)
    with pytest.raises(ArgumentError, match="space: needed to read"):
        w2wpp.load_lora(file)


def test_of_another_A_what_the_shared_one_can_express_is_kept(shared, draw_weights, layout, tmp_path):
    foreign = draw_weights(layout, 1, seed=8)[0]
    export_lora(tmp_path / "x.safetensors", foreign, layout, "kohya")
    found = w2wpp.load_lora(tmp_path / "x.safetensors", shared)
    rows = layout.split(shared.mean[None])
    for name, (down, up) in layout.split(found.weights[None]).items():
        a, theirs = rows[name][0][0].double(), layout.split(foreign[None])[name]
        torch.testing.assert_close(down[0].double(), a, atol=1e-6, rtol=1e-6)
        product = (theirs[1][0] @ theirs[0][0]).double()
        onto = a.T @ torch.linalg.inv(a @ a.T) @ a  # projects on the rows of A
        torch.testing.assert_close((up[0] @ down[0]).double(), product @ onto, atol=1e-5, rtol=1e-4)


def test_pictures_are_those_of_the_pipeline(pipe, space, repro):
    person = w2wpp.sample(space, 1)
    expected = generate(pipe, space.layout, person.weights[None], ["a photo of sks person"], 3, FEW, None)[0, 0]
    drawn = person.draw(seeds=[2, 0], settings=FEW)
    assert [picture.size for picture in drawn] == [(32, 32)] * 2
    for picture, number in zip(drawn, (2, 0), strict=True):
        assert np.abs(np.asarray(picture).astype(int) - expected[number].numpy()).max() <= 1
    guided = generate(
        pipe, space.layout, person.weights[None], ["a photo of sks person, smiling"], 1, FEW.prompted, None
    )[0, 0, 0]
    smiling = person.draw("a photo of sks person, smiling", base=pipe, settings=FEW)[0]
    assert np.abs(np.asarray(smiling).astype(int) - guided.numpy()).max() <= 1
    together = people.draw([person, w2wpp.sample(space, 2)], seeds=2, base=pipe, settings=FEW)
    assert together.shape == (2, 2, 32, 32, 3) and (together[0] != together[1]).any()


def test_nothing_is_drawn_by_another_base_model(pipe, space, wide_layout, draw_weights):
    first = space.layout.layers[0]
    narrow = WeightLayout((first, Adapted("mid_block.x.to_q", 4, 4)), 1, 1.0)
    with pytest.raises(ArgumentError, match=r"base: mid_block\.x\.to_q is adapted as 4 x 4, but the UNet has no such"):
        w2wpp.Lora(torch.zeros(narrow.dimension), narrow).draw(base=pipe)
    other = WeightLayout((Adapted(first.module, first.fan_in + 1, first.fan_out),), 1, 1.0)
    with pytest.raises(ArgumentError, match=rf"the UNet has {first.fan_in} x {first.fan_out} there"):
        w2wpp.Lora(torch.zeros(other.dimension), other).draw(base=pipe)
    with pytest.raises(ArgumentError, match="several layouts"):
        people.draw([w2wpp.sample(space), w2wpp.Lora(draw_weights(wide_layout, 1)[0], wide_layout)], base=pipe)
    with pytest.raises(ArgumentError, match="seeds"):
        w2wpp.sample(space).draw(seeds=0, base=pipe)


def test_invert_starts_at_what_the_encoder_of_a_named_space_says(repro, face):
    few = InvertParams(steps=2)
    found = w2wpp.invert(face, "pca", settings=few, options=AS_IT_IS)
    assert found.guess.z.abs().min() > 0 and (found.z - found.guess.z).abs().max() > 0.1
    torch.testing.assert_close(found.weights, found.space.decode(found.z[None])[0])
    file = repro / "data/spaces/pca/space.safetensors"
    for space in (file, w2wpp.load_space("pca")):  # it lies beside the space, however that was given
        assert torch.equal(w2wpp.invert(face, space, settings=few, options=AS_IT_IS).z, found.z)
    w2wpp.load_space("pca").save("mine.safetensors")
    assert not w2wpp.invert(face, "mine.safetensors", settings=few, options=AS_IT_IS).guess.z.any()
    assert not w2wpp.invert(face, "pca", encoder=None, settings=few, options=AS_IT_IS).guess.z.any()
    encoder = repro / "data/photo_encoders/pca.safetensors"
    given = w2wpp.invert(face, "mine.safetensors", encoder=encoder, settings=few, options=AS_IT_IS)
    assert torch.equal(given.z, found.z)


def test_invert_refines_beyond_the_space(repro, face):
    how = InvertParams(steps=2, refine=w2wpp.RefineParams(steps=3))
    inside = w2wpp.invert(face, "pca", settings=how, options=AS_IT_IS, refine=0)
    beyond = w2wpp.invert(face, "pca", settings=how, options=AS_IT_IS)
    assert torch.equal(inside.z, beyond.z)
    torch.testing.assert_close(inside.weights, inside.space.decode(inside.z[None])[0])
    assert (beyond.weights - inside.weights).abs().max() > 1e-3
    assert len(inside.record.losses) == 2 and torch.equal(beyond.record.losses[:2], inside.record.losses)
    again = w2wpp.invert(face, "pca", settings=InvertParams(steps=2), options=AS_IT_IS, refine=3)
    assert torch.equal(again.weights, beyond.weights)
    beyond.save(repro / "me.safetensors")
    torch.testing.assert_close(w2wpp.load_lora(repro / "me.safetensors", "pca").weights, beyond.weights)
    with pytest.raises(ArgumentError, match="refine: -1, expected whole numbers"):
        w2wpp.invert(face, "pca", options=AS_IT_IS, refine=-1)


def test_invert_finds_the_face(repro, face):
    from skimage import data as pictures

    found = w2wpp.invert([pictures.astronaut(), Image.fromarray(face)], "pca", settings=InvertParams(steps=2))
    astronaut, head = found.record.photos
    assert (astronaut.faces, head.faces) == (1, 1) and astronaut.pixels.shape == head.pixels.shape == (32, 32, 3)
    found.save(repro / "me.safetensors")
    assert w2wpp.load_base().load_lora_weights(str(repro), weight_name="me.safetensors") is None


def test_what_does_not_fit_is_refused_before_anything_is_searched(repro, face, wide_layout, draw_weights, sd15_base):
    few = {"settings": InvertParams(steps=2), "options": AS_IT_IS}
    encoder = PhotoEncoder(torch.zeros(64, 3), torch.zeros(3), torch.ones(3))
    for key, call in {
        "encoder": lambda: w2wpp.invert(face, "pca", encoder=encoder, **few),
        "base": lambda: w2wpp.invert(face, "pca", sd15_base, encoder=None, **few),
        "photo": lambda: w2wpp.invert([], "pca", **few),
        "framing": lambda: w2wpp.invert(face, "pca", options=w2wpp.PhotoOptions(framing="square")),
        "faces": lambda: w2wpp.invert(face, "pca", options=w2wpp.PhotoOptions(faces="cv2")),
    }.items():
        with pytest.raises(ArgumentError) as caught:
            call()
        assert caught.value.key == key
    (repro / "data/photo_encoders/pca.safetensors").unlink()
    with pytest.raises(ArgumentError, match=r"encoder: no data/photo_encoders/pca\.safetensors.*make repro"):
        w2wpp.invert(face, "pca", **few)


def test_stable_diffusion_inverts_one_photo_of_one_person(sd15_base, draw_weights, make_space, tmp_path):
    """No folder of people, no photo encoder, no zoo: a base model, a space, a photo."""
    pipe = w2wpp.load_base(sd15_base)
    layout = WeightLayout.of_unet(pipe.unet, 1, 27.0, ["to_q", "to_v"])
    space = make_space(layout, draw_weights(layout, 3, seed=4, size=1.0), draw_weights(layout, 1)[0])
    space.save(tmp_path / "space.safetensors")
    from skimage import data as pictures

    me = w2wpp.invert(
        pictures.astronaut(),
        tmp_path / "space.safetensors",
        sd15_base,
        settings=InvertParams(steps=3, mask="face", prompt="sks person"),
    )
    assert me.record.photos[0].pixels.shape == (64, 64, 3) and me.z.abs().max() > 0.1
    me.save(tmp_path / "me.safetensors")
    pipe.load_lora_weights(str(tmp_path), weight_name="me.safetensors")
    assert len(pipe.get_active_adapters()) == 1


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, w2wpp; names = dir(w2wpp); assert set(w2wpp.__all__) <= set(names);"
        "assert not {'torch', 'diffusers', 'numpy', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        _ = w2wpp.smaple
    assert all(getattr(w2wpp, name).__doc__ for name in w2wpp.__all__)
