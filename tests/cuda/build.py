#!/usr/bin/env python3
"""build.py OUT KERNELS.cu...: libraries that replace NVIDIA's and compute on the processor.

OUT gets libcuda.so.1 and its like; a program built with the feature `cuda` finds them with POINTWISE_CUDA_LIBRARIES=OUT. Needs g++
with C++17, on x86-64 Linux; the processor must have AVX2.
"""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

FLAGS = ["-std=c++17", "-O3", "-march=x86-64-v3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-g1", "-Wall", "-Wextra"]
# Kernels stop at misaligned vectors, at indices outside of an array and at undefined arithmetic. This costs almost no time.
SANITIZE = ["-fsanitize=alignment,bounds,integer-divide-by-zero,shift,vla-bound", "-fno-sanitize-recover=all", "-static-libubsan"]
OPTIONS = """
extern "C" __attribute__((visibility("default"))) const char *__ubsan_default_options() { return "abort_on_error=1"; }
"""
# Device memory has the types that the kernels give it.
KERNEL_FLAGS = ["-fno-strict-aliasing", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter",
                "-Wno-maybe-uninitialized"]

LIBRARIES = {
    "libcuda.so.1": ["driver.cpp", "image.cpp", "memory.cpp", "blocks.cpp"],
    "libcublas.so.13": ["cublas.cpp"],
    "libcudnn.so.9": ["cudnn.cpp"],
    "libcurand.so.10": ["curand.cpp"],
}

KERNEL = re.compile(r'extern\s+"C"([^;{}()]*)EMULATOR_GLOBAL\s+void\s+(?:EMULATOR_BOUNDS\(([^)]*)\)\s*)?(\w+)\s*\(')
DYNAMIC = re.compile(r"extern\s+EMULATOR_SHARED\s+((?:alignas\s*\([^)]*\)\s*)?)([\w\s:]+?)\s*(\w+)\s*\[\s*\]\s*;")


def run(command):
    if subprocess.run([str(part) for part in command]).returncode:
        sys.exit("the emulator cannot be built: " + " ".join(str(part) for part in command))


def kernels(source, out):
    """C++ of the kernels in a file, with their table."""
    expanded = out / f"{source.stem}.expanded.cpp"
    run(["g++", "-std=c++17", "-E", "-x", "c++", "-I", HERE, "-include", HERE / "kernels.h", "-o", expanded, source])
    text = expanded.read_text()
    found = KERNEL.findall(text)
    if len(found) != text.count("EMULATOR_GLOBAL"):
        sys.exit(f'{source}: not every __global__ function is written as `extern "C" __global__ void __launch_bounds__(N) NAME(`')
    text = DYNAMIC.sub(r"\2 *const \3 = static_cast<\2 *>(emulator::dynamic_shared());", text)
    text = re.sub(r"EMULATOR_BOUNDS\([^)]*\)|EMULATOR_GLOBAL", "", text)
    text = re.sub(r"(static\s+)?EMULATOR_SHARED", "static thread_local", text)
    for _, bounds, name in found:
        threads = bounds.split(",")[0].strip() or "1024"
        text += f'\nstatic emulator::Register register_{name}("{name}", {threads}, emulator::Launch<{name}>());'
    expanded.write_text(text + "\n")
    return expanded


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: build.py OUT KERNELS.cu...")
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for library, sources in LIBRARIES.items():
        needs = [] if library == "libcuda.so.1" else [out / "libcuda.so.1"]
        run(["g++", *FLAGS, "-shared", f"-Wl,-soname,{library}", "-Wl,-rpath,$ORIGIN", "-Wl,-Bsymbolic", "-o", out / library,
             *(HERE / source for source in sources), *needs, "-ldl"])
    generated = [kernels(pathlib.Path(source), out) for source in sys.argv[2:]]
    generated.append(out / "options.cpp")
    generated[-1].write_text(OPTIONS)
    run(["g++", *FLAGS, *KERNEL_FLAGS, *SANITIZE, "-shared", "-Wl,-rpath,$ORIGIN", "-o", out / "libkernels.so", *generated,
         out / "libcuda.so.1"])


if __name__ == "__main__":
    main()
