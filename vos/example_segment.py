"""Segment a video with these exported graphs; needs numpy, opencv and onnxruntime (or openvino), nothing else.

python segment.py VIDEO FIRST_MASK.png OVERLAY.mp4      each colour of the mask that is not black is an object
"""

import json
import os
import sys

import cv2
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def load(about, name):
    path, inputs = os.path.join(HERE, about["files"][name]), [one["name"] for one in about["graphs"][name]["inputs"]]
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda *arrays: session.run(None, dict(zip(inputs, arrays)))
    import openvino

    graph = openvino.compile_model(path, "CPU")
    return lambda *arrays: [np.array(one) for one in graph(dict(zip(inputs, arrays))).values()]


def main(video_path, mask_path, out_path):
    with open(os.path.join(HERE, "graphs.json"), encoding="utf-8") as file:
        about = json.load(file)
    start, step = load(about, "start"), load(about, "step")
    video, mask = cv2.VideoCapture(video_path), cv2.imread(mask_path)
    ok, image = video.read()
    if not ok or mask is None or mask.shape != image.shape:
        sys.exit(f"{video_path}, {mask_path}: a video and a mask of its size are needed")
    height, width = image.shape[:2]
    h, w = about["size"] or (max(64, round(height / 16) * 16), max(64, round(width / 16) * 16))
    colours, index = np.unique(mask.reshape(-1, 3), axis=0, return_inverse=True)
    if colours[0].any() or len(colours) < 2:
        sys.exit(f"{mask_path}: paint the background black and each object in a colour of its own")
    labels = cv2.resize(index.reshape(height, width).astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
    objects = np.arange(1, len(colours), dtype=np.uint8)
    fps = video.get(cv2.CAP_PROP_FPS) or 25
    out = cv2.VideoWriter(out_path, cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
    first = recent = None
    while ok:
        frame = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (w, h), interpolation=cv2.INTER_AREA)
        if first is None:
            key, value = start(frame, labels, objects)
            first = np.repeat(key, len(objects), axis=0), value
        else:
            labels, _, key, value = step(frame, *first, *recent)
        recent = key, value
        painted = colours[cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)]
        out.write(np.where(painted.any(-1, keepdims=True), image // 2 + painted // 2, image))
        ok, image = video.read()
    out.release()


if __name__ == "__main__":
    main(*sys.argv[1:4]) if len(sys.argv) == 4 else sys.exit(__doc__)
