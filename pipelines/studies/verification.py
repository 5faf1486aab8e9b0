"""Run every check of `python -m jobs.verify`: those of vos/published/checks.py, and those that need golden numbers, weights or frames.

Golden numbers are outputs of the official implementations: `stcn/case_*.npz`, on weights and inputs of `pipelines/studies/golden.py`, and
`davis_eval/` with masks and scores. They and DAVIS are not part of the project. A check whose files are not named is reported as skipped;
a named path that does not exist is an error.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.runtime.output_folder import claimed_folder
from pipelines.runtime.session import set_threads
from pipelines.studies import golden as golden_inputs
from vos.config import VerifyConfig
from vos.data.transforms import to_tensor
from vos.errors import InputError
from vos.files.canonical import dumps
from vos.files.json_files import checked, parse_json
from vos.inference.propagate import propagate
from vos.media.images import read_frame
from vos.metrics.davis import score_folders
from vos.models import VOSModel, build
from vos.models.checkpoint import load_checkpoint, load_trunk_weights
from vos.models.memory import MemoryPolicy
from vos.published import checks, loss_checks
from vos.published.bounds import Figure
from vos.published.recognition import RECOGNISABLE, read_classifier, recognise

CHECKOUT = Path(__file__).resolve().parents[2]
IMAGENET_FILE = "mobilenet_v2_imagenet.fp16.safetensors"
STUDENT = "mobilevos-mobilenetv2"
VERIFY, CHECKS = "verify", "checks.json"
REPEATS = 7
NAME_WIDTH, FIGURE_WIDTH, BOUND_WIDTH = 70, 16, 18


def verify(config: VerifyConfig, tell: Callable[[str], None]) -> bool:
    """Run every check, report each as it finishes, and return whether all are met.

    A skipped check counts as failed with config.strict. Raises InputError for a named path that does not exist or has
    the wrong content.
    """
    set_threads(config.threads)
    places = _folder(config.golden, "--golden"), _weights_file(config.weights), frames_root(config)
    # First, so that a folder that cannot be written is reported before minutes of work.
    with claimed_folder(config, VERIFY, "checks", names=[CHECKS]) if config.out else nullcontext() as folder:
        tell(_line("check", "figure", "bound", "").rstrip())
        done: list[dict[str, Any]] = []
        for check in all_checks(config, *places):
            done.append(_record(check))
            tell(check_line(check))
        outcomes = Counter(check["outcome"] for check in done)
        tell(f"{len(done)} checks: " + ", ".join(f"{outcomes[name]} {name}" for name in ("ok", "FAILED", "skipped")))
        if folder is not None:
            folder.write(CHECKS, dumps(done).encode())
    return not outcomes["FAILED"] and not (config.strict and outcomes["skipped"])


def all_checks(
    config: VerifyConfig, golden: Path | None, weights: Path | None, frames: Path | None
) -> Iterator[Figure]:
    """Yield the checks in the order in which they are printed, each measured when it is yielded."""
    yield from checks.size_checks()
    yield from stcn_checks(golden)
    yield from trunk_checks(weights, frames)
    yield from checks.memory_checks(config.seed)
    yield from loss_checks.representation_checks(config.seed)
    yield from loss_checks.supervised_checks(config.seed)
    yield from checks.sampling_checks(config.seed)
    yield from evaluator_checks(golden, config.workers)
    yield from checks.reference_checks()


def check_line(check: Figure) -> str:
    """Return one row of the report: name, figure, target, outcome."""
    figure = "-" if check.value is None else _text(check.value)
    return _line(check.name, figure, check.target, _outcome(check) + (f": {check.how}" if check.how else ""))


def stcn_checks(golden: Path | None) -> Iterator[Figure]:
    """Compare the teacher with the official code: names, shapes, a strict load, and the numbers of every golden case."""
    if golden is None:
        yield _skipped("STCN: official names, weights and probabilities", "no golden numbers; name them with --golden")
        return
    cases = sorted((golden / "stcn").glob("case_*.npz"))
    if not cases:
        raise InputError(f"{golden}/stcn: holds no case_*.npz; give the folder of golden numbers as --golden")
    names = cases[0].with_suffix(".keys.json")
    repair = "give the whole folder of golden numbers as --golden"
    named = checked(parse_json(_need(names), str(names), repair), dict[str, list[int]], str(names), repair)
    shapes = {name: tuple(shape) for name, shape in named.items()}
    ours = {name: tuple(tensor.shape) for name, tensor in build("stcn").state_dict().items()}
    differing = len(set(ours.items()) ^ set(shapes.items()))
    yield Figure(f"STCN: {len(shapes)} official names and shapes, differing", differing, "=", 0)
    official = {name: torch.from_numpy(golden_inputs.weight(name, shape)) for name, shape in shapes.items()}
    try:
        model = _through_a_file(official)
    except InputError as error:
        yield Figure("STCN: strict load of an official .pth", "refused", "=", "loaded", how=str(error))
        return
    yield Figure("STCN: strict load of an official .pth (with its module. prefix)", "loaded", "=", "loaded")
    for case in cases:
        yield from _case_checks(model, case)


def trunk_checks(weights: Path | None, frames: Path | None) -> Iterator[Figure]:
    """Check ImageNet weights in the trunks of a student, and the classes that they recognise."""
    if weights is None:
        yield _skipped("ImageNet: weights in both trunks", "no ImageNet weights; name them with --weights")
        return
    classifier = read_classifier(str(weights))
    model = build(STUDENT)
    found = load_trunk_weights(model, str(weights))
    yield Figure("ImageNet: convention found in the folded file", found["preprocessing"], "=", "tensorflow")
    deltas = [_trunk_delta(trunk, classifier) for trunk in model.trunks()]
    yield Figure("ImageNet: query and value trunk against the file, max |Δ|", float(np.max(deltas)), "=", 0.0)
    masks = model.trunks()[1].get_parameter("features.0.0.weight").detach()[:, 3:].flatten(1)
    off = float((masks.T @ masks - torch.eye(masks.shape[1])).abs().max())
    yield Figure("ImageNet: the value trunk's mask channels are orthogonal, max |MᵀM - 1|", off, "<=", 1e-5)
    yield Figure("ImageNet: first layer against (x - 127.5) / 127.5 with SAME padding", _stem_delta(model), "<=", 1e-4)
    pictures = {name: path for name in RECOGNISABLE if frames and (path := frames / name / "00000.jpg").is_file()}
    name = "ImageNet: DAVIS frames with the right class in the top 5"
    if not pictures:
        yield _skipped(name, "no DAVIS frames; name the data set with --data.root")
        return
    images = {name: read_frame(str(path)) for name, path in pictures.items()}
    seen, wrong_convention = (recognise(classifier, images, convention) for convention in ("tensorflow", "imagenet"))
    hits = [name for name, item in seen.items() if item.top5 & RECOGNISABLE[name]]
    yield Figure(name, len(hits), "=", len(pictures), how=", ".join(hits))
    gain = np.mean([seen[name].right - wrong_convention[name].right for name in pictures])
    yield Figure("ImageNet: their probability above the other convention's, mean", float(gain), ">=", 0.1)


def evaluator_checks(golden: Path | None, workers: int) -> Iterator[Figure]:
    """Compare J and F with the official evaluation's table, and the speed with a naive transcription of the definition."""
    if golden is None:
        yield _skipped("evaluator: J and F of the official evaluation", "no golden numbers; name them with --golden")
        return
    folder = golden / "davis_eval"
    rows = score_folders(folder / "gt", folder / "pred", workers).official().rows()
    head, *lines = csv.reader(_need(folder / "scores.csv").splitlines())
    official = {(line[0], int(line[1])): [float(figure) for figure in line[2:]] for line in lines}
    figures = {(row.sequence, row.object_id): list(row[2:]) for row in rows}
    yield Figure("evaluator: objects scored", len(figures.keys() & official.keys()), "=", len(official))
    missing = [np.inf] * len(head[2:])
    deltas = [np.subtract(figures.get(key, missing), official[key]) for key in official]
    yield Figure(
        "evaluator: mean, recall, decay of J and F, max |Δ| to golden", float(np.abs(deltas).max()), "<=", 1e-6
    )
    name = "evaluator: times faster than the naive transcription, PNG included"
    if not (CHECKOUT / "tests" / "oracle_davis.py").is_file():
        yield _skipped(name, "the transcription is part of the tests; run in a checkout")
        return
    ms = _measure_speed(folder)
    note = f"{ms['vos.metrics.davis']:.2f} against {ms['oracle']:.2f} ms per frame and object, one thread"
    yield Figure(name, ms["oracle"] / ms["vos.metrics.davis"], ">=", 4.0, how=note)


def frames_root(config: VerifyConfig) -> Path | None:
    """Return the folder that holds a folder of frames for each DAVIS sequence, None where there is none."""
    root = _folder(config.data.root, "--data.root")
    found = [root / "JPEGImages" / size for size in ("480p", "Full-Resolution")] if root else []
    return next((folder for folder in found if folder.is_dir()), None)


def _case_checks(model: VOSModel, case: Path) -> Iterator[Figure]:
    """Compare the features of frame 1 and the probabilities of every frame, with the padding of the official code."""
    golden = np.load(case)
    num_objects, height, width, num_frames, every, top_k, include_last, seed = (int(x) for x in golden["args"])
    frames = torch.from_numpy(golden_inputs.frames(num_frames, height, width, seed))
    left, right, top, bottom = (int(x) for x in golden["pad"])
    with torch.no_grad():
        query = model.encode_query(F.pad(frames[1:2], (left, right, top, bottom)))
    policy = MemoryPolicy("infinite", every=every, top_k=top_k, include_last=bool(include_last))
    prob = propagate(model, frames, torch.from_numpy(golden_inputs.first_mask(num_objects, height, width)), policy)
    inside = golden["prob"][..., top : top + height, left : left + width]
    for name, ours, official in (
        ("query key of frame 1", query.key, golden["key"]),
        ("f16_thin of frame 1", query.f16_thin, golden["f16_thin"]),
        (f"prob, {num_objects} objects, {num_frames} frames", prob, inside),
    ):
        delta = float((ours - torch.from_numpy(official)).abs().max())
        yield Figure(f"STCN {case.stem}: {name}, max |Δ| to golden", delta, "<=", 1e-4)


def _through_a_file(weights: dict[str, Tensor]) -> VOSModel:
    """Load the weights from a file in the authors' format: pickled by torch, saved from a DataParallel model."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "official.pth")
        torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
        return load_checkpoint(path)[0]


def _trunk_delta(trunk: nn.Module, classifier: dict[str, Tensor]) -> float:
    """Return the largest difference of a trunk's parameters from the file's, without mask channels, which the file does not have."""
    deltas = []
    for name, parameter in trunk.named_parameters():
        own, official = parameter.detach(), classifier[name]
        own = own[:, : official.shape[1]] if own.ndim > 1 else own
        deltas.append(float((own - official).abs().max()))
    return float(np.max(deltas))


def _stem_delta(model: VOSModel) -> float:
    """Return the largest difference of the query trunk's first layer from the documented preprocessing, on random pixels."""
    trunk = model.trunks()[0]
    norm = trunk.get_submodule("features.0.1")
    raw = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    scaled = (torch.from_numpy(raw).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    first: list[Tensor] = []
    # A hook on the whole layer, since its convolution is not called separately where BatchNorm is folded into it.
    hook = trunk.get_submodule("features.0").register_forward_hook(lambda *call: first.append(call[2]))
    with torch.no_grad():
        trunk(to_tensor(raw))
        # TensorFlow's SAME at stride 2 on even sides: one row below, one column to the right
        expected = F.conv2d(F.pad(scaled, (0, 1, 0, 1)), trunk.get_parameter("features.0.0.weight"), stride=2)
        expected = F.relu6(norm(expected))
    hook.remove()
    return float((first[0] - expected).abs().max())


def _measure_speed(folder: Path) -> dict[str, float]:
    """Return milliseconds of CPU time per frame and object, measured in another process, since no module may import the tests."""
    command = [sys.executable, "-m", "tests.oracle_davis", str(folder / "gt"), str(folder / "pred")]
    command += ["--repeats", str(REPEATS), "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr.strip()}")
    return parse_json(done.stdout.splitlines()[-1], "tests.oracle_davis", "run it by hand")


def _folder(given: str, flag: str) -> Path | None:
    if given and not os.path.isdir(given):
        raise InputError(f"{flag} {given}: no such folder; name one that exists or omit {flag}")
    return Path(given) if given else None


def _weights_file(given: str) -> Path | None:
    """Return the weights' path; --weights names the file or its folder."""
    if not given:
        return None
    path = Path(given, IMAGENET_FILE) if os.path.isdir(given) else Path(given)
    if not path.is_file():
        raise InputError(f"--weights {given}: no such file; give {IMAGENET_FILE} or its folder")
    return path


def _need(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the whole folder of golden numbers as --golden")
    return path.read_text(encoding="utf-8")


def _skipped(name: str, reason: str) -> Figure:
    return Figure(name, None, "=", "-", how=reason)


def _outcome(check: Figure) -> str:
    return {None: "skipped", True: "ok", False: "FAILED"}[check.met]


def _record(check: Figure) -> dict[str, Any]:
    kept = {"name": check.name, "figure": check.value, "relation": check.relation, "bound": check.bound}
    return {**kept, "note": check.how, "outcome": _outcome(check)}


def _text(value: float | str) -> str:
    """Return a count as a whole number, a ratio with two decimals, a difference in powers of ten."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or not value:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.1e}"


def _line(name: str, figure: str, bound: str, outcome: str) -> str:
    return f"{name:{NAME_WIDTH}}  {figure:>{FIGURE_WIDTH}}  {bound:<{BOUND_WIDTH}}  {outcome}"
