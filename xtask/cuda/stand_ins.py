#!/usr/bin/env python3
"""stand_ins.py BINDINGS DIR: libraries to link with if NVIDIA's are not installed.

For every library that cudarc binds, DIR gets a static library of the same functions. Each function jumps to where a table says; at
first the table leads to code that loads the real library, puts the real function's place into the table and continues there, with
the arguments as they came. Without the real library the call returns that library's own error code for "not there". A linker script
under the shared library's name makes `-lcuda` find the static one.
"""

import pathlib
import re
import subprocess
import sys

# Name: module of the bindings, names of the real library, what a function returns without it.
LIBRARIES = {
    "cuda": ("driver", ["libcuda.so.1", "libcuda.so"], 34),  # CUDA_ERROR_STUB_LIBRARY
    "nvrtc": ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so"], 11),  # NVRTC_ERROR_INTERNAL_ERROR
    "curand": ("curand", ["libcurand.so.10", "libcurand.so"], 203),  # CURAND_STATUS_INITIALIZATION_FAILED
    "cublas": ("cublas", ["libcublas.so.13", "libcublas.so"], 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    "cublasLt": ("cublaslt", ["libcublasLt.so.13", "libcublasLt.so"], 1),
    "cudnn": ("cudnn", ["libcudnn.so.9", "libcudnn.so"], 1001),  # CUDNN_STATUS_NOT_INITIALIZED
}

FUNCTION = re.compile(r'extern "C" \{\s*(?:#\[[^\]]*\]\s*)*fn (\w+)\(')

INTEGERS = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"]

LOADER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *pointwise_{library}_table[];
static const char *const functions[] = {{{functions}}};
static const char *const files[] = {{{files}}};
static void *handle;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int not_there(void) {{ return {code}; }}

static void load(void) {{
    const char *folder = getenv("POINTWISE_CUDA_LIBRARIES");
    char path[4096];
    for (; folder && *folder && !handle; folder += strcspn(folder, ":"), folder += *folder == ':')
        for (size_t i = 0; i < sizeof files / sizeof *files && !handle; i++) {{
            int len = snprintf(path, sizeof path, "%.*s/%s", (int)strcspn(folder, ":"), folder, files[i]);
            if (len > 0 && (size_t)len < sizeof path) handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        }}
    for (size_t i = 0; i < sizeof files / sizeof *files && !handle; i++) handle = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL);
}}

__attribute__((visibility("hidden"))) void *pointwise_{library}_find(size_t index) {{
    pthread_once(&once, load);
    void *function = handle ? dlsym(handle, functions[index]) : NULL;
    if (!function) function = (void *)not_there;
    __atomic_store_n(&pointwise_{library}_table[index], function, __ATOMIC_RELEASE);
    return function;
}}
"""


def assembly(library, functions):
    """A jump for each function, and the detour that all of them take the first time."""
    lines = [".text"]
    for index, function in enumerate(functions):
        lines += [
            f".globl {function}",
            f".type {function}, @function",
            f"{function}: jmp *pointwise_{library}_table+{8 * index}(%rip)",
            f".Lfirst{index}: pushq ${index}",
            "jmp .Ldetour",
        ]
    # Registers that hold arguments are saved. The index and six of them keep the stack on the 16 bytes that a call needs.
    lines += [".Ldetour:"]
    lines += [f"pushq %{register}" for register in INTEGERS]
    lines += ["subq $128, %rsp"]
    lines += [f"movups %xmm{i}, {16 * i}(%rsp)" for i in range(8)]
    lines += [f"movq {128 + 8 * len(INTEGERS)}(%rsp), %rdi", f"call pointwise_{library}_find"]
    lines += [f"movups {16 * i}(%rsp), %xmm{i}" for i in range(8)]
    lines += ["addq $128, %rsp"]
    lines += [f"popq %{register}" for register in reversed(INTEGERS)]
    lines += ["addq $8, %rsp", "jmp *%rax"]
    table = f"pointwise_{library}_table"
    lines += [".data", ".p2align 3", f".globl {table}", f".hidden {table}", f"{table}:"]
    lines += [f".quad .Lfirst{index}" for index in range(len(functions))]
    lines += ['.section .note.GNU-stack, "", @progbits', ""]
    return "\n".join(lines)


def compile_to(target, language, source):
    command = ["gcc", "-c", "-O2", "-fPIC", "-x", language, "-o", str(target), "-"]
    subprocess.run(command, input=source, text=True, check=True)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: stand_ins.py BINDINGS DIR")
    bindings, target = map(pathlib.Path, sys.argv[1:])
    for library, (module, files, code) in LIBRARIES.items():
        source = bindings / module / "sys" / "mod.rs"
        functions = sorted(set(FUNCTION.findall(source.read_text())))
        if not functions:
            sys.exit(f"{source} declares no functions in the form that this script knows: its version of cudarc differs")
        quoted = {
            "functions": ", ".join(f'"{name}"' for name in functions),
            "files": ", ".join(f'"{name}"' for name in files),
        }
        objects = [target / f"{library}_jumps.o", target / f"{library}_loader.o"]
        compile_to(objects[0], "assembler", assembly(library, functions))
        compile_to(objects[1], "c", LOADER.format(library=library, code=code, **quoted))
        archive = target / f"lib{library}_stand_in.a"
        archive.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", archive, *objects], check=True)
        for file in objects:
            file.unlink()
        (target / f"lib{library}.so").write_text(f"INPUT(-l{library}_stand_in)\n")


if __name__ == "__main__":
    main()
