"""jobs.export: a folder that is proven, says what it holds, and runs where nothing of this project is."""

import json
import shutil
import struct
import subprocess
import sys
import venv
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from jobs.export import main
from jobs.segment import main as segment
from vos.errors import InputError
from vos.files.seals import sealed
from vos.inference.engine import Engine
from vos.models import build
from vos.models.checkpoint import save_checkpoint

SIZE = (64, 96)
FILES = {f"{name}.onnx" for name in ("start", "step", "encode_query", "read_decode", "encode_value")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = build("mobilevos-tiny")
    with torch.no_grad():
        model.decoder.pred.weight.mul_(5)
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    save_checkpoint(folder, model, {"role": "student"})
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: str, store: str) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("export")
    assert main(["--preset", "smoke", "--model", checkpoint, "--size", "96x64", "--out", str(folder)]) == 0
    yield folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A video file, its first mask in two colours, and the frames as they are in the file."""
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 12, 3), dtype=np.uint8), 8, 1), 8, 2)
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE[::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[10:40, 10:40], mask[30:60, 50:90] = (0, 0, 128), (0, 128, 0)
    cv2.imwrite(str(folder / "mask.png"), mask)
    return folder / "clip.mp4", folder / "mask.png", frames


def test_the_folder_says_what_it_holds(exported: Path):
    about = json.loads((exported / "graphs.json").read_text())
    assert set(about["bytes"]) == FILES and about["precision"] == "fp32" and about["size"] == list(SIZE)
    assert all((exported / name).stat().st_size == count for name, count in about["bytes"].items())
    assert max(about["parity"].values()) <= 1e-3
    card = (exported / "README.md").read_text()
    assert "normalisation is inside" in card and "## Licence" in card and all(name in card for name in FILES)
    step = {one["name"]: one["shape"] for one in about["graphs"]["step"]["inputs"]}
    assert step == {
        "frame": [64, 96, 3],
        "first_key": ["O", 32, 4, 6],
        "first_value": ["O", 32, 4, 6],
        "recent_key": [1, 32, 4, 6],
        "recent_value": ["O", 32, 4, 6],
    }


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_engine_runs_an_exported_folder_as_it_runs_the_checkpoint(exported: Path, checkpoint: str, runtime: str):
    from vos.models.checkpoint import load_checkpoint

    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    labels[10:40, 10:40] = 1
    network = Engine(load_checkpoint(checkpoint)[0], "eager", threads=1, size_px=0)
    folder = Engine(str(exported), runtime, precision="fp32", threads=1)
    for engine in (network, folder):
        engine.start(frames[0], labels)
    for frame in frames[1:]:
        for engine in (network, folder):
            engine.step(frame)
        assert np.abs(network.probabilities() - folder.probabilities()).max() <= 1e-3


def test_frames_of_another_size_are_refused_with_both_sizes(exported: Path):
    with pytest.raises(InputError, match="exported for frames of 96x64, these are 80x64"):
        Engine(str(exported), "onnxruntime").start(np.zeros((64, 80, 3), np.uint8), np.ones((64, 80), np.uint8))


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory, exported: Path, checkpoint: str) -> Path:
    """A folder with an export to ONNX and a file of the user's, into which torch-export was written."""
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("replaced") / "export")
    (folder / "diary.txt").write_text("mine")
    argv = ["--preset", "smoke", "--model", checkpoint, "--size", "96x64", "--to", "torch-export", "--out", str(folder)]
    assert main(argv) == 0
    return folder


def test_an_export_replaces_the_one_before_whatever_its_format(replaced: Path):
    graphs = {name.replace(".onnx", ".pt2") for name in FILES}
    beside = {"graphs.json", "README.md", "config.json", "identity.json", "diary.txt"}
    assert {path.name for path in replaced.iterdir() if path.name[0] != "."} == graphs | beside
    assert set(json.loads((replaced / "graphs.json").read_text())["bytes"]) == graphs


def test_a_file_of_the_users_in_the_folder_is_kept_and_not_logged(replaced: Path):
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("export")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], "params.to = 'torch-export'", max_results=1)[0]
    logged = {Path(one.path).name for one in client.list_artifacts(run.info.run_id, "export")}
    assert (replaced / "diary.txt").read_text() == "mine"
    assert {"graphs.json", "README.md", "step.pt2"} <= logged and "diary.txt" not in logged


@pytest.mark.parametrize("name", ["README.md", "segment.py", "step.onnx", "graphs.json"])
def test_a_file_that_the_user_edited_or_put_there_is_not_replaced(
    name: str, exported: Path, checkpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(exported, tmp_path / "export")
    (folder / "start.bin").write_text("mine")  # a name that openvino uses
    (folder / name).write_text("mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    argv = ["--preset", "smoke", "--model", checkpoint, "--size", "96x64", "--out", str(folder)]
    assert main(argv) == 2 and f"{name} would be replaced" in capfd.readouterr().err
    assert main([*argv, "--to", "openvino"]) == 2 and "start.bin" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_engine_refuses_graphs_that_its_runtimes_do_not_load(replaced: Path):
    with pytest.raises(InputError, match="the engine does not run torch-export graphs"):
        Engine(str(replaced), "onnxruntime")


def test_a_network_whose_probabilities_are_no_numbers_is_not_released(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    model = build("mobilevos-tiny")
    with torch.no_grad():
        model.decoder.pred.weight.sign_().mul_(3e38)  # finite weights, whose sums are not
    save_checkpoint(str(tmp_path / "broken"), model, {"role": "student"})
    argv = ["--preset", "smoke", "--model", str(tmp_path / "broken"), "--size", "96x64", "--to", "torch-export"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 2
    assert "nothing was exported" in capfd.readouterr().err
    assert not (tmp_path / "out" / "graphs.json").exists()


def example(
    python: str, folder: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """The example program, writing overlay.mp4 in an empty folder and environment."""
    program = [python, "-I", str(folder / "segment.py"), str(clip[0]), str(clip[1]), str(tmp_path / "overlay.mp4")]
    return subprocess.run(program, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=120)


def run_example(python: str, folder: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path) -> np.ndarray:
    """The frames of the overlay that the example program writes."""
    out = tmp_path / "overlay.mp4"
    done = example(python, folder, clip, tmp_path)
    assert done.returncode == 0, done.stderr
    video, frames = cv2.VideoCapture(str(out)), []
    while True:
        ok, frame = video.read()
        if not ok:
            return np.stack(frames)
        frames.append(frame)


def test_the_example_program_refuses_a_mask_of_more_objects_than_its_graphs_are_for(
    exported: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path
):
    copied = shutil.copytree(exported, tmp_path / "device")
    about = json.loads((copied / "graphs.json").read_text())
    about.pop("seal")
    (copied / "graphs.json").write_bytes(sealed({**about, "objects": 1}, "export", "x"))
    done = example(sys.executable, copied, clip, tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "made for 1 object(s), the mask has 2; export without --objects"


@pytest.mark.parametrize("what", ["a list", "an address", "a mask of another kind", "an immense mask"])
def test_the_example_program_reads_a_video_and_a_png_of_its_size_only(
    what: str, exported: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path
):
    copied, (video, mask, labels) = shutil.copytree(exported, tmp_path / "device"), clip
    if what == "a list":
        video = tmp_path / "list.mp4"
        video.write_text(f"ffconcat version 1.0\nfile '{clip[0]}'\n")
    elif what == "an address":
        video = Path(f"concat:{clip[0]}")
    else:
        mask, data = tmp_path / "mask.png", mask.read_bytes()
        if what == "an immense mask":
            header = b"IHDR" + struct.pack(">II", 20000, 20000) + data[24:29]
            mask.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
        else:
            mask.write_bytes(cv2.imencode(".tiff", np.zeros((*SIZE, 3), np.uint8))[1].tobytes())
    done = example(sys.executable, copied, (video, mask, labels), tmp_path)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("give a video")
    assert not (tmp_path / "overlay.mp4").exists()


@pytest.mark.parametrize("name", ["step.onnx", "graphs.json"])
def test_the_example_program_refuses_a_changed_file_by_its_name(
    name: str, exported: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path
):
    copied = shutil.copytree(exported, tmp_path / "device")
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data.replace(b"fp32", b"int8") if name == "graphs.json" else data[:-1] + b"?")
    done = example(sys.executable, copied, clip, tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(name) and done.stderr.count("\n") == 1


def test_a_job_refuses_an_export_whose_graph_was_changed(
    exported: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    copied = shutil.copytree(exported, tmp_path / "device")
    path = copied / "read_decode.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    cv2.imwrite(str(tmp_path / "mask.png"), np.eye(*SIZE, dtype=np.uint8))
    argv = [str(clip[0]), "--first-mask", str(tmp_path / "mask.png"), "--model", str(copied)]
    assert segment([*argv, "--out", str(tmp_path / "overlay.mp4")]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(path) in said[0] and "sha256" in said[0]


def test_the_example_program_paints_the_masks_of_the_engine(
    exported: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path
):
    copied = shutil.copytree(exported, tmp_path / "device")
    overlay = run_example(sys.executable, copied, clip, tmp_path)
    video, frames = cv2.VideoCapture(str(clip[0])), []
    for _ in range(len(overlay)):
        frames.append(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB))
    mask = cv2.imread(str(clip[1]))
    assert mask is not None and len(frames) == len(clip[2])
    labels = np.where(mask[..., 1] > 0, 1, np.where(mask[..., 2] > 0, 2, 0)).astype(np.uint8)
    engine = Engine(str(exported), "onnxruntime", threads=1)
    engine.start(frames[0], labels)
    colours = np.array([[0, 0, 0], [0, 128, 0], [128, 0, 0]], np.int32)
    for frame, painted in zip(frames[1:], overlay[1:], strict=True):
        masks = engine.step(frame)
        expected = np.where(masks[..., None] > 0, frame // 2 + colours[masks] // 2, frame)
        assert np.abs(cv2.cvtColor(painted, cv2.COLOR_BGR2RGB).astype(int) - expected).mean() < 12  # lossy video


@pytest.mark.slow  # makes a virtual environment
def test_the_example_program_needs_only_numpy_opencv_and_the_runtime(
    exported: Path, clip: tuple[Path, Path, np.ndarray], tmp_path: Path
):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["numpy", "opencv-python-headless", "onnxruntime"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    copied = shutil.copytree(exported, tmp_path / "device")
    assert len(run_example(python, copied, clip, tmp_path)) == len(clip[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "wide"], "use WIDTHxHEIGHT"),
        (["--to", "executorch"], "give --objects"),
        (["--to", "torch-export", "--int8"], "int8 is available for onnx and openvino"),
        (["--model", "nowhere"], "no such file or folder"),
        (["--out", "s3://bucket/x"], "local folder"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["--preset", "smoke", "--out", str(tmp_path / "x"), *arguments]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]
