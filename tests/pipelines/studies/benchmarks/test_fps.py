"""The FPS benchmark: its grid is the memory that a growing system really holds, its rows are what users compare. Speed is never a test."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.studies.benchmarks.fps import _integrate, _memory_grid, _memory_of, _metrics, _objects
from pipelines.studies.benchmarks.fps_results import Measured, ratios
from pipelines.studies.benchmarks.fps_systems import System, workers, write_frames
from pipelines.studies.benchmarks.rows import recorded
from vos.config import FpsBenchmarkConfig
from vos.errors import InputError
from vos.models.memory import Memory, MemoryPolicy

FIELDS = {
    "system",
    "runtime",
    "precision",
    "threads",
    "objects",
    "protocol",
    "fps",
    "ms_per_frame_median",
    "rss_mib_peak",
    "params",
}
STCN = System("stcn eager", "stcn", "eager", "fp32", growing=True)
STUDENT = System("student openvino auto", "mobilevos-mobilenetv2", "openvino", "auto")


def measured(system: System, model: str, protocol: str, frame_s: list[float], objects: int = 1) -> Measured:
    about = {"model": model, "runtime": system.runtime, "precision": "fp32", "params": 1}
    return Measured(system, about, objects, protocol, frame_s=frame_s)


def test_the_memory_of_a_frame_is_what_the_reference_loop_reads_there():
    memory = Memory(MemoryPolicy("infinite", every=5))
    for frame in range(1, 38):
        if memory.wants(frame - 1) or frame == 1:
            memory.add(frame - 1, torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 2, 1, 1))
        assert _memory_of(frame) == memory.num_frames


@pytest.mark.parametrize("num_frames", [1, 5, 6, 49, 489])
def test_the_grid_goes_from_one_memory_frame_to_the_last(num_frames: int):
    grid = _memory_grid(num_frames)
    assert grid == sorted(set(grid)) and grid[0] == 1 and grid[-1] == _memory_of(num_frames)


def test_a_cost_that_is_linear_in_the_memory_is_integrated_exactly():
    def sweep(size: int) -> list[dict[str, Any]]:
        return [{"query_s": [2 + 3 * size] * 2, "value_s": 10.0, "rss_mib": size, "peak_mib": size}]

    result = measured(STCN, "stcn", "long", [])
    _integrate(result, {size: sweep(size) for size in _memory_grid(99)}, 99)
    assert result.frame_s == pytest.approx([2 + 3 * _memory_of(t) + 10 * (t % 5 == 0) for t in range(1, 100)])
    assert result.peak_mib == _memory_of(99) and result.integrated


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_a_mask_is_cut_into_as_many_objects_as_are_wanted(wanted: int):
    labels = np.zeros((40, 60), np.uint8)
    labels[5:25, 10:50] = 9
    labels[30:35, 10:20] = 4
    cut = _objects(labels, wanted)
    assert sorted(np.unique(cut)) == list(range(wanted + 1))
    assert not cut[labels == 0].any()


def test_ratios_are_those_of_the_definition():
    runs = [
        measured(STCN, "stcn", "short", [2.0] * 4),
        measured(STUDENT, "mobilevos-mobilenetv2", "short", [0.05] * 4),
        measured(STUDENT, "mobilevos-mobilenetv2", "short", [0.07] * 4, objects=2),
        measured(STCN, "stcn", "long", [4.0] * 40),
        measured(STUDENT, "mobilevos-mobilenetv2", "long", [0.05] * 40),
    ]
    found = {one.name.split(",")[0]: one.value for one in ratios(runs, [100.0], {"mobilevos-mobilenetv2": 1e9})}
    by_protocol = {one.name: one for one in ratios(runs, [100.0], {})}
    student = "mobilenetv2 openvino fp32"
    assert by_protocol[f"{student} / STCN, short"].value == pytest.approx(40)
    assert by_protocol[f"{student} / STCN, long"].value == pytest.approx(80)
    assert by_protocol[f"{student} / STCN, short"].met and by_protocol[f"{student} / STCN, long"].met
    assert found["long / short FPS"] == pytest.approx(1)
    assert found["second object's extra cost"] == pytest.approx(40)


def test_a_system_that_works_on_smaller_frames_inside_is_compared_apart_and_has_no_target():
    inside = replace(STUDENT, size_px=320)
    runs = [
        measured(STCN, "stcn", "short", [2.0] * 4),
        measured(STUDENT, "mobilevos-mobilenetv2", "short", [0.1] * 4),
        measured(inside, "mobilevos-mobilenetv2", "short", [0.05] * 4),
    ]
    found = {one.name: one for one in ratios(runs, [100.0], {})}
    whole, smaller = (found[f"mobilenetv2{size} openvino fp32 / STCN, short"] for size in ("", "@320"))
    assert (whole.value, smaller.value) == (pytest.approx(20), pytest.approx(40))
    assert whole.met is False and smaller.met is None
    assert runs[2].row(2)["system"] == "mobilevos-mobilenetv2@320"


def test_every_figure_has_a_name_that_mlflow_takes(store: str, tmp_path: Path):
    shipped = replace(STUDENT, label="mobilevos-mobilenetv2@320 openvino auto", size_px=320)
    runs = [
        measured(STCN, "stcn", "short", [2.0] * 4),
        measured(shipped, "mobilevos-mobilenetv2", "short", [0.05] * 4),
    ]
    with recorded(FpsBenchmarkConfig(out=str(tmp_path)), "names") as record:
        record.log(ratios(runs, [100.0], {}), [], **_metrics(runs))


def test_the_command_plays_every_system_and_writes_rows_series_and_plots(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
):
    from jobs.benchmark import main

    out = str(tmp_path / "fps")
    assert main(["fps", "--preset", "smoke", "--systems", "stcn", "tiny", "--max-frames", "8", "--out", out]) == 0
    rows = json.loads(Path(out, "rows.json").read_text())
    assert all(row.keys() >= FIELDS and row["fps"] > 0 and row["rss_mib_peak"] > 0 for row in rows)
    played = {(row["system"], row["objects"], row["protocol"]): row["frames"] for row in rows}
    assert played["mobilevos-tiny", 1, "short"] == played["mobilevos-tiny", 2, "short"] == 7
    assert played["mobilevos-tiny", 1, "long"] == 79
    assert played["stcn", 1, "long"] == played["stcn", 2, "long"] == 79
    printed = capsys.readouterr().out
    assert "integrated over the video" in printed and "GFLOP/s" in printed
    names = {path.name for path in Path(out).iterdir()}
    assert {"fps-by-frame.png", "memory-by-frame.png", "jf-by-fps.png", "series.json", "table.txt"} <= names


def test_a_fault_in_a_system_s_process_shows_where_it_is_and_a_file_of_the_user_s_is_named(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "broken" / name).write_text("{")
    frames = write_frames(np.zeros((2, 32, 32, 3), np.uint8), str(tmp_path))
    broken, tiny = (System(f"a {name}", name, "eager", "fp32") for name in (str(tmp_path / "broken"), "mobilevos-tiny"))
    with workers([broken, tiny], frames, 1) as (of_the_user, of_ours):
        with pytest.raises(InputError, match=r"a .*broken: .*broken/model\."):
            of_the_user.ask("about")
        with pytest.raises(
            RuntimeError, match=r"(?s)a mobilevos-tiny: play failed.*in play\n.*AttributeError: .*_labels"
        ):
            of_ours.ask("play", 1, "short")  # before start
        assert of_ours.ask("about")["model"] == "mobilevos-tiny", "its process goes on"


def test_an_unknown_system_is_refused_with_the_known_ones(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    from jobs.benchmark import main

    assert main(["fps", "--preset", "smoke", "--systems", "xmem", "--out", str(tmp_path)]) == 2
    assert "stcn eager" in capfd.readouterr().err


@pytest.mark.parametrize("flags", [["--soak-frames", "100"], ["--soak-frames", "200", "--systems", "stcn"]])
def test_a_soak_that_could_compare_nothing_is_refused_before_anything_is_timed(
    flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from jobs.benchmark import main

    assert main(["fps", "--preset", "smoke", *flags, "--out", str(tmp_path)]) == 2
    assert f"--soak-frames {flags[1]}" in capfd.readouterr().err
