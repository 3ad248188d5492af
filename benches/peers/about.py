"""What results were measured on and with."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("onnx", "onnxruntime", "openvino", "torch", "numpy")


def machine() -> dict:
    """Processor, number of cores, kernel, and how busy the machine was when it was asked."""
    model = "unknown"
    with open("/proc/cpuinfo") as lines:
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        model = f"{fields.get('model name')}, family {fields.get('cpu family')}, model {fields.get('model')}"
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict:
    """Of what takes part."""
    told = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=False)
    return told | {"rustc": rustc.stdout.strip()}
