"""Images that are read from their files while others are computed on."""

import contextlib
import os
import pickle
import tarfile
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_fits import TINY, prepared, recipe_for
from torch import Tensor

from neumeta_cli.data import DataSection
from neumeta_cli.data.formats import load_images
from neumeta_cli.data.images import Asked, Images
from neumeta_cli.data.samples import Samples
from neumeta_cli.distill import Fitter
from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks import load_task
from neumeta_cli.training import Place

SIZE = (3, 24, 24)


def opened(folder: Path, workers: int, **fields: object) -> tuple[Images, DataSection]:
    data = DataSection(root=str(folder), in_memory=0, workers=workers, **fields)
    return load_images(data, "train", SIZE), data


def asked_of(images: Images, seed: int, training: bool = True, part: slice = slice(None)) -> list:
    """Three batches of a training, as it asks for them."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    own = torch.Generator()
    made: list[Asked] = []
    for step, index in enumerate(order.split(8)[:3]):
        made.append((index, images.generator(own, seed, step) if training else None, part))
    return made


def pixels_of(images: Images, data: DataSection, announced: bool, **given: object) -> list[Tensor]:
    if announced:
        images.expect(asked_of(images, 5, **given), data)
    return [images.batch(i, data, g, p)[0] for i, g, p in asked_of(images, 5, **given)]


@pytest.mark.parametrize("fields", [{"flip": True, "crop_padding": 3}, {"resized_crop": (0.2, 1)}])
def test_what_an_image_draws_does_not_depend_on_who_reads_it(image_folder, fields: dict) -> None:
    """Nobody, one worker or two, announced or not, and as parts of two processes."""
    alone, data = opened(image_folder, 0, **fields)
    expected = pixels_of(alone, data, announced=False)
    plain = pixels_of(alone, data, announced=False, training=False)
    assert not any(torch.equal(a, b) for a, b in zip(expected, plain, strict=True))
    before = torch.get_rng_state()
    images, _ = opened(image_folder, 2, **fields)
    for _ in range(2):  # the second time by workers that are there already
        found = pixels_of(images, data, announced=True)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    for rank in range(2):
        part = slice(rank, None, 2)
        own = pixels_of(images, data, announced=True, part=part)
        assert all(torch.equal(a, b[part]) for a, b in zip(own, expected, strict=True))


def test_an_announcement_leaves_the_generators_of_its_batches_as_they_are(image_folder) -> None:
    """Else each batch draws anew, and nothing that was read ahead is what it asks for."""
    alone, data = opened(image_folder, 0, resized_crop=(0.2, 1))
    images, _ = opened(image_folder, 1, resized_crop=(0.2, 1))
    asked = asked_of(images, 5)
    images.expect(asked, data)
    found = [images.batch(index, data, generator, part)[0] for index, generator, part in asked]
    expected = pixels_of(alone, data, announced=False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_crops_are_of_the_original(tmp_path: Path) -> None:
    """A narrow crop has neighbouring columns, which are lost where all is resized first."""
    columns = torch.arange(96, dtype=torch.uint8).repeat(96, 1)
    (tmp_path / "train" / "only").mkdir(parents=True)
    Image.fromarray(columns.numpy()).save(tmp_path / "train" / "only" / "columns.png")
    share = (24 / 96) ** 2
    images, data = opened(tmp_path, 0, resized_crop=(share, share), interpolation="nearest")
    for step in range(6):
        generator = images.generator(torch.Generator(), 0, step)
        [pixels], _ = images.batch(torch.tensor([0]), data, generator)
        shown = pixels[0, 0].unique()
        assert len(shown) > 18
        assert shown.diff().max() <= 2


def test_something_else_may_be_asked_for_in_between(image_folder) -> None:
    images, data = opened(image_folder, 1, flip=True)
    expected = pixels_of(images, data, announced=False)
    asked = asked_of(images, 5)
    images.expect(asked, data)
    other = images.batch(torch.arange(2), data)[0]
    assert torch.equal(other, images.fetch(torch.arange(2)))
    found = [images.batch(i, data, g, p)[0] for i, g, p in asked_of(images, 5)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_images_and_samples_go_to_other_processes(image_folder) -> None:
    """As where processes are spawned: what reads ahead stays behind, timm's pipeline goes along."""
    images, data = opened(image_folder, 1, resized_crop=(0.5, 1), crop_mode="center")
    expected = pixels_of(images, data, announced=True)
    read = images.read(3)
    copy, samples = pickle.loads(pickle.dumps((images, Samples(images, data))))
    found = pixels_of(copy, data, announced=False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(samples[3, None][0], read)


def test_masks_follow_their_images(tmp_path: Path) -> None:
    """Mask and image are the same picture here, and stay so when cut and flipped."""
    rng = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for number in range(16):
            few = torch.randint(0, 2, (6, 8), generator=rng).repeat_interleave(8, 0)
            values = few.repeat_interleave(8, 1).to(torch.uint8)
            for kind, scale in (("images", 200), ("masks", 1)):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray((values * scale).numpy())
                picture.save(tmp_path / split / kind / f"{number}.png")
    fields = {"format": "mask_folder", "classes": 2, "flip": True, "resized_crop": (0.3, 1)}
    images, data = opened(tmp_path, 1, interpolation="nearest", **fields)
    asked = asked_of(images, 1)
    images.expect(asked, data)
    for index, generator, part in asked_of(images, 1):
        pixels, masks = images.batch(index, data, generator, part)
        assert masks.shape == (8, 24, 24)
        assert (
            torch.equal(pixels[:, 0] > 100, masks == 1)
            or ((pixels[:, 0] > 100) == (masks == 1)).float().mean() > 0.9
        )  # the two ways to find the nearest differ at edges


def test_a_broken_file_is_one_line_and_leaves_no_worker(image_folder, tmp_path: Path) -> None:
    images, data = opened(image_folder, 1)
    files = list(images.files)
    files[9] = tmp_path / "broken.jpg"
    files[9].write_bytes(b"\xff\xd8 no image")
    broken = Images(images.labels, images.classes, None, tuple(files), (24, 24), workers=1)
    indices = torch.arange(24).split(8)
    broken.expect([(index, None, slice(None)) for index in indices], data)
    workers = [w.pid for w in broken._ahead._loader._iterator._workers]
    broken.batch(indices[0], data)
    with pytest.raises(NeumetaError, match=r"^cannot read image .*broken\.jpg: .*--skip-broken"):
        broken.batch(indices[1], data)
    assert all(has_ended(pid) for pid in workers)


def has_ended(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow  # torch looks every five seconds
def test_a_worker_that_dies_is_one_line(image_folder) -> None:
    images, data = opened(image_folder, 1)
    asked = [(index, None, slice(None)) for index in torch.arange(100).split(4)]
    images.expect(asked, data)
    [worker] = images._ahead._loader._iterator._workers
    with contextlib.suppress(RuntimeError):  # which torch raises wherever the signal finds us
        worker.kill()
        worker.join()
        time.sleep(1)

    def read_all() -> None:
        for index, *_ in asked:
            images.batch(index, data)

    with pytest.raises(NeumetaError, match=r"process that reads images has ended .*data\.workers"):
        read_all()


class StoppedError(Exception):
    pass


@pytest.mark.slow
def test_a_resumed_fit_equals_an_uninterrupted_one_with_any_workers(
    build, image_folder, tmp_path: Path
) -> None:
    """Stopped in the middle of an epoch, by one number of workers, and resumed by another."""
    data = {"in_memory": 0, "resized_crop": [0.5, 1.0], "crop_padding": 0}

    def state(folder: Path, workers: int, stop_at: int = -1) -> dict[str, Tensor]:
        folder.mkdir(exist_ok=True)
        recipe = recipe_for(
            image_folder,
            scope="all",
            inr={"kind": "selected"},
            data={**data, "workers": workers},
            fit={"epochs": 2, "save_steps": 2, "warmup_steps": 1},
            loss={"distill": 1.0},
            norm={"fold": False},
        )
        manifold, tensors, task = prepared(build, recipe)
        assert task.train.pixels is None
        fitter = Fitter(manifold, tensors, task, recipe, folder=folder)
        take = fitter.stepper.take

        def stopping(index: Tensor, place: Place) -> dict[str, float] | None:
            if place.step == stop_at:
                raise StoppedError
            return take(index, place)

        fitter.stepper.take = stopping
        fitter.run(resume=stop_at < 0)
        return manifold.inr.state_dict()

    whole = state(tmp_path / "0", 0)
    for first, second in ((2, 1),):
        cut = tmp_path / f"{first} {second}"
        with pytest.raises(StoppedError):
            state(cut, first, stop_at=4)
        resumed = state(cut, second)
        assert all(torch.equal(resumed[name], t) for name, t in whole.items())


@pytest.mark.slow
def test_evaluation_on_files_is_that_on_memory(build, image_folder) -> None:
    model, _ = build(TINY)
    found = []
    for fields in ({}, {"in_memory": 0, "workers": 2}, {"in_memory": 0, "workers": 0}):
        data = recipe_for(image_folder, data=fields).data
        task = load_task(data, model.eval(), (3, 16, 16), train=False)
        found.append(task.measure(model, batch_size=1))
    assert found[0] == found[1] == found[2]


def test_timm_reads_a_tar_file_as_the_folder_that_it_holds(image_folder, tmp_path: Path) -> None:
    """Of class folders, and of a tar file for each class; the split is by name in both."""
    packed, nested = tmp_path / "packed.tar", tmp_path / "nested.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(image_folder / "train", arcname="")
    with tarfile.open(nested, "w") as tar:
        for folder in sorted((image_folder / "train").iterdir()):
            inner = tmp_path / f"{folder.name}.tar"
            with tarfile.open(inner, "w") as one:
                one.add(folder, arcname="")
            tar.add(inner, arcname=inner.name)
    for workers in (0, 1):
        shown = []
        for root in (image_folder / "train", packed, nested):
            data = DataSection(format="timm", root=str(root), in_memory=0, workers=workers)
            images = load_images(data, "train", SIZE)
            pixels = pixels_of(images, data, announced=True, training=False)
            shown.append((images.classes, len(images)))
            if root != nested:  # whose names, and so the split, are others
                shown[-1] += (images.labels.tolist(), torch.cat(pixels).sum().item())
            test = load_images(data, "test", SIZE)
            assert len(images) + len(test) == 120
        assert shown[0] == shown[1]
        assert shown[2][0] == shown[0][0]


def test_one_tar_file_for_each_split_is_taken(image_folder, tmp_path: Path) -> None:
    for split, name in (("train", "train"), ("test", "val")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(image_folder / split, arcname="")
    data = DataSection(format="timm", root=str(tmp_path))
    counts = [len(load_images(data, split, SIZE)) for split in ("train", "test")]
    assert counts == [120, 30]


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        ("tfds/mnist", "pip install tensorflow tensorflow-datasets"),
        ("torch/nothing", "Unknown torchvision dataset nothing"),
        ("torch/image_folder", "leave data.reader .* empty"),
    ],
)
def test_what_timm_cannot_read_is_one_line(image_folder, reader: str, said: str) -> None:
    data = DataSection(format="timm", root=str(image_folder), reader=reader)
    with pytest.raises(NeumetaError, match=said) as caught:
        load_images(data, "train", SIZE)
    assert "\n" not in str(caught.value)
