# pyright: basic, reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
"""python segment.py VIDEO FIRST_MASK.png OVERLAY.mp4: each colour of the mask that is not black is an object."""

import hashlib
import json
import os
import sys

import cv2
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
# ffmpeg also opens addresses, and lists and scripts that name further files.
READ = "protocol_whitelist;file|format_whitelist;mov,matroska,avi,mpeg,mpegts,gif,ogg,yuv4mpegpipe|max_pixels;36000000"


def describe():
    try:
        about = json.load(open(os.path.join(HERE, "graphs.json"), encoding="utf-8"))
        digest, about["seal"] = about["seal"]["sha256"], {name: about["seal"][name] for name in ("job", "of")}
        assert hashlib.sha256(f"{json.dumps(about, indent=1, sort_keys=True)}\n".encode()).hexdigest() == digest
        return about
    except Exception:
        sys.exit("graphs.json: is damaged, or was changed after the export; copy the folder again")


def read(about, name):
    data = open(os.path.join(HERE, os.path.basename(name)), "rb").read()
    if hashlib.sha256(data).hexdigest() != about["sha256"].get(name):
        sys.exit(f"{name}: is not the file that graphs.json describes; copy the folder again")
    return data


def load(about, name):
    file = about["files"][name]
    names = [one["name"] for one in about["graphs"][name]["inputs"]]
    if file.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(read(about, file), providers=["CPUExecutionProvider"])
        return lambda *arrays: session.run(None, dict(zip(names, arrays)))
    import openvino

    model, made = openvino.Core().read_model(read(about, file), read(about, file[:-4] + ".bin")), []

    def run(*arrays):
        if not made:
            model.reshape({name: list(array.shape) for name, array in zip(names, arrays)})
            made.append(openvino.compile_model(model, "CPU"))
        return [np.array(one) for one in made[0](dict(zip(names, arrays))).values()]

    return run


def main(video_path, mask_path, out_path):
    about = describe()
    if not (os.path.isfile(video_path) and os.path.isfile(mask_path)):
        sys.exit("give a video file and a PNG file")
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = READ
    video = cv2.VideoCapture(video_path, cv2.CAP_FFMPEG)
    ok, image = video.read()
    png = np.fromfile(mask_path, np.uint8, 2**26)
    # OpenCV decodes many kinds of file, and of any size: this has to be a PNG of the video's.
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + np.array(image.shape[1::-1], ">i4").tobytes() if ok else b"no video"
    mask = cv2.imdecode(png, cv2.IMREAD_COLOR) if png.tobytes().startswith(head) else None
    if mask is None or mask.shape != image.shape:
        sys.exit("give a video that can be read and a PNG mask of its size: black, with a colour for each object")
    start, step = load(about, "start"), load(about, "step")
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
