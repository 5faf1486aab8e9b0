"""Write a model's whole video pipeline, memory included, as files for a device, and check them against PyTorch.

Examples:
  python -m jobs.export --model runs/student --to onnx --out runs/export
  python -m jobs.export --model champion --to openvino --size 640x360 --int8 --data.root DAVIS --out runs/export-int8
  python -m jobs.export --model runs/student --to torch-export --size free --out runs/export-free
  python -m jobs.export --model runs/student --to executorch --objects 1 --out runs/export-executorch
"""

import sys

from vos.config import ExportConfig
from vos.config.command_line import run_job


def export(config: ExportConfig) -> None:
    from pipelines.delivery.export import export_model

    print(export_model(config))
    print(f"folder {config.out}\ncard   {config.out}/README.md")


def main(argv: list[str] | None = None) -> int:
    return run_job(ExportConfig, __doc__ or "", export, argv)


if __name__ == "__main__":
    sys.exit(main())
