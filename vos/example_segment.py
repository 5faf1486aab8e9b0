# pyright: basic, reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
"""python segment.py VIDEO FIRST_MASK.png OVERLAY.mp4: each colour of the mask that is not black is an object."""

import json
import os
import sys

import cv2
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def load(about, name):
    path = os.path.join(HERE, about["files"][name])
    names = [one["name"] for one in about["graphs"][name]["inputs"]]
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda *arrays: session.run(None, dict(zip(names, arrays)))
    import openvino

    model, made = openvino.Core().read_model(path), []

    def run(*arrays):
        if not made:
            model.reshape({name: list(array.shape) for name, array in zip(names, arrays)})
            made.append(openvino.compile_model(model, "CPU"))
        return [np.array(one) for one in made[0](dict(zip(names, arrays))).values()]

    return run


def main(video_path, mask_path, out_path):
    about = json.load(open(os.path.join(HERE, "graphs.json"), encoding="utf-8"))
    start, step = load(about, "start"), load(about, "step")
    video, mask = cv2.VideoCapture(video_path), cv2.imread(mask_path)
    ok, image = video.read()
    if not ok or mask is None or mask.shape != image.shape:
        sys.exit("give a video that can be read and a mask of its size: black, with a colour for each object")
    height, width = image.shape[:2]
    h, w = about["size"] or (max(64, round(height / 16) * 16), max(64, round(width / 16) * 16))
    colours, index = np.unique(
        np.vstack((np.zeros((1, 3), np.uint8), mask.reshape(-1, 3))), axis=0, return_inverse=True
    )
    if about.get("objects") not in (None, len(colours) - 1):
        sys.exit(f"made for {about['objects']} object(s), the mask has {len(colours) - 1}; export without --objects")
    labels = cv2.resize(index[1:].reshape(height, width).astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
    out = cv2.VideoWriter(out_path, cv2.VideoWriter_fourcc(*"mp4v"), video.get(cv2.CAP_PROP_FPS), (width, height))
    frame = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (w, h), interpolation=cv2.INTER_AREA)
    key, value = start(frame, labels, np.arange(1, len(colours), dtype=np.uint8))
    first = np.repeat(key, len(value), axis=0), value
    while ok:
        frame = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (w, h), interpolation=cv2.INTER_AREA)
        labels, _, key, value = step(frame, *first, key, value)
        painted = colours[cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)]
        out.write(np.where(painted.any(-1, keepdims=True), image // 2 + painted // 2, image))
        ok, image = video.read()


if __name__ == "__main__":
    main(*sys.argv[1:4])
