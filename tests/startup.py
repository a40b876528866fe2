"""Times `trainer predict` on one image, from its start to its end: python3 tests/startup.py TRAINER RECORD [ROUNDS]

A line of JSON for each network of the study goes to RECORD: wall and processor time in milliseconds and the largest resident set, medians
over rounds in which every network takes its turn. Only the standard library is needed."""

import json
import os
import pathlib
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib

NETWORKS = ["alexnet_plain", "alexnet", "nin"]


def png(width, height):
    """A png image of a few colours."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (8 * x % 256, 8 * y % 256, (x + y) % 256)) for y in range(height)
    )

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def timed(command):
    """Wall and processor time in milliseconds, and memory in MiB, of a process that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    milliseconds = 1e3 * (time.perf_counter() - start)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}")
    return milliseconds, 1e3 * (usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1024


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: startup.py TRAINER RECORD [ROUNDS]")
    trainer, record = str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) == 4 else 25
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "image.png")
        pathlib.Path(image).write_bytes(png(32, 32))
        commands = {}
        for network in NETWORKS:
            run = os.path.join(folder, network)
            data = ["--data", "synthetic", "--limit-train", "252", "--limit-test", "10", "--epochs", "1"]
            subprocess.run([trainer, "train", "--model", network, *data, "--quiet", "--run-dir", run], check=True)
            commands[network] = [trainer, "predict", "--checkpoint", run, image]
        results = {network: [] for network in NETWORKS}
        # The first round is not counted: it fills the system's file cache.
        for turn in range(rounds + 1):
            for network in NETWORKS:
                result = timed(commands[network])
                if turn > 0:
                    results[network].append(result)
        with record.open("w") as file:
            for network in NETWORKS:
                clock, cpu, memory = (round(statistics.median(values), 1) for values in zip(*results[network]))
                weights = os.path.getsize(os.path.join(folder, network, "checkpoints", "best.safetensors"))
                line = {
                    "network": network,
                    "weights_mb": round(weights / 1e6, 1),
                    "rounds": rounds,
                    "milliseconds": clock,
                    "processor_milliseconds": cpu,
                    "memory_mib": memory,
                    "program_mb": round(os.path.getsize(trainer) / 1e6, 1),
                    "processor": processor(),
                    "cores": os.cpu_count(),
                }
                print(json.dumps(line))
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
