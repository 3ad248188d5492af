"""Generates images on a flowmap server: one row of the picture for each number of steps."""

import argparse
import pathlib
import random
import sys
import tempfile
import time

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc
from PIL import Image, ImageDraw

PROTO_DIR = pathlib.Path(__file__).resolve().parents[2] / "proto"
PROTO = "flowmap/v1/generation.proto"


def stubs():
    """The messages and the client, generated from the contract into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["protoc", f"-I{PROTO_DIR}", f"--python_out={out}", f"--grpc_python_out={out}", PROTO]
        if protoc.main(arguments) != 0:
            sys.exit(f"cannot compile {PROTO_DIR / PROTO}")
        sys.path.insert(0, out)
        from flowmap.v1 import generation_pb2, generation_pb2_grpc

        sys.path.remove(out)
    return generation_pb2, generation_pb2_grpc


def generate(client, request):
    """Runs one request; returns its images by index, as float32 of [count, shape...], and prints how long it took."""
    began, first, images, shorter = time.perf_counter(), None, {}, 0
    for response in client.Generate(request):
        event = response.WhichOneof("event")
        if event == "image":
            image = response.image
            first = first or time.perf_counter() - began
            shorter += image.steps < image.steps_asked
            data = bytearray(image.data)
            images[image.index] = (image.shape, data)
        elif event == "preview":  # What the image would be, finished now; a viewer would show it.
            preview, data = response.preview, bytearray(response.preview.data)
            after = 1e3 * (time.perf_counter() - began)
            print(f"    preview of image {preview.index}: {preview.evaluations} evaluations, {after:.1f} ms")
        elif event == "image_chunk":  # An image or preview larger than a message goes on.
            data.extend(response.image_chunk.data)
        elif event == "summary":
            total, evaluations = time.perf_counter() - began, response.summary.evaluations
    print(
        f"{request.steps:3} steps: {len(images)} images, {evaluations} evaluations, "
        f"first after {1e3 * first:.1f} ms, all after {1e3 * total:.1f} ms"
        + (f", {shorter} with fewer steps to be in time" if shorter else "")
    )
    arrays = (np.frombuffer(data, dtype="<f4").reshape(shape) for _, (shape, data) in sorted(images.items()))
    return np.stack(list(arrays))


def picture(rows, steps, model, scale=3, margin=70):
    """Rows of images with their number of steps beside them."""
    low, high = model.value_min, model.value_max
    pixels = (np.clip((rows - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = pixels.transpose(0, 1, 3, 4, 2).repeat(scale, axis=2).repeat(scale, axis=3)
    _, count, height, width, channels = pixels.shape
    sheet = Image.new("RGB", (margin + count * width, len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(pixels):
        draw.text((8, y * height + height // 2 - 6), f"{steps[y]} steps", fill="black")
        for x, image in enumerate(row):
            sheet.paste(Image.fromarray(image.squeeze(2) if channels == 1 else image), (margin + x * width, y * height))
    return sheet


def explain(error):
    """A refusal for a person: the message, every wrong field, and when to come back."""
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            lines += [f"  {violation.field}: {violation.description}" for violation in bad.field_violations]
        elif detail.Unpack(retry):
            lines.append(f"  retry in {retry.retry_delay.ToMilliseconds()} ms")
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:50051", help="host:port [%(default)s]")
    parser.add_argument("--model", default="", help="name or name@version; the server's default one if absent")
    parser.add_argument("--class", dest="class_name", help="name of a class; all classes in turn if absent")
    parser.add_argument("--count", type=int, help="images in a row; one for each class if absent")
    parser.add_argument("--steps", default="1,2,4,8", help="numbers of steps, a row for each [%(default)s]")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if absent")
    parser.add_argument("--deadline-ms", type=int, help="give up a request after this many milliseconds")
    parser.add_argument("--min-steps", type=int, help="fewest steps that will do to be in time; all if absent")
    parser.add_argument("--previews", action="store_true", help="tell when unfinished images could be shown")
    parser.add_argument("--seed", type=int, default=random.getrandbits(32), help="seed of the noise; drawn if absent")
    parser.add_argument("--out", help="save a picture here")
    parser.add_argument("--npy", help="save the samples here, float32 of [rows, count, shape...]")
    return parser.parse_args()


def labels(model, class_name, count):
    """A label for each image."""
    names = [name.lower() for name in model.classes]
    if class_name is None:
        count = count or len(names) or 8
        return [i % len(names) if names else -1 for i in range(count)]
    if class_name.lower() not in names:
        sys.exit(f"{class_name} is not a class of {model.name}: {', '.join(model.classes)}")
    return [names.index(class_name.lower())] * (count or 8)


def main():
    args = arguments()
    pb, grpc_stubs = stubs()
    with grpc.insecure_channel(args.server) as channel:
        client = grpc_stubs.GenerationServiceStub(channel)
        model = client.GetModel(pb.GetModelRequest(model=args.model), timeout=10).model
        print(f"{model.name}@{model.version}: {model.description} (seed {args.seed})")
        steps = [int(step) for step in args.steps.split(",")]
        wanted = labels(model, args.class_name, args.count)
        rows = []
        for step in steps:
            request = pb.GenerateRequest(
                model=f"{model.name}@{model.version}",
                count=len(wanted),
                steps=step,
                labels=wanted,
                guidance=args.guidance,
                seed=args.seed,
                output_encoding=pb.OUTPUT_ENCODING_FLOAT32,
                deadline_ms=args.deadline_ms,
                min_steps=args.min_steps and min(args.min_steps, step),
                previews=pb.Previews() if args.previews else None,
            )
            rows.append(generate(client, request))
    rows = np.stack(rows)
    if args.npy:
        np.save(args.npy, rows)
    if args.out:
        if rows.ndim != 5:
            sys.exit(f"samples of shape {rows.shape[2:]} are no picture; use --npy")
        picture(rows, steps, model).save(args.out)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(explain(error))
