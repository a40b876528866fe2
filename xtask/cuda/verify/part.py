"""A part: it runs programs within its time, and reports findings as they come."""

import json
import os
import signal
import subprocess
import threading
import time

PASSED, FAILED, SKIPPED, TOLD = "passed", "failed", "skipped", "told"
OUT_OF_TIME = "out of time"

# Seconds that a program is given after each request to end when its time is over; at the first one it leaves a checkpoint.
REQUESTS = [(signal.SIGINT, 8), (signal.SIGTERM, 3), (signal.SIGKILL, 3)]


class OutOfTime(Exception):
    """The part's time is over."""


class Stop(Exception):
    """The current check cannot continue."""


class Records:
    """Findings go to stdout, and as lines of JSON into `lines.jsonl`: they are kept whatever happens next."""

    def __init__(self, folder):
        self.folder, self.checks = folder, []
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / "lines.jsonl", "a", encoding="utf-8")
        self.began = time.monotonic()
        # Programs are read in threads of their own.
        self.lock = threading.Lock()

    def line(self, part, facts, shown):
        line = {"part": part, "at": round(time.monotonic() - self.began, 2), **facts}
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            print(f"{part}: {shown}", flush=True)


class Part:
    def __init__(self, name, options, records, ends):
        self.name, self.options, self.records, self.ends = name, options, records, ends
        self.folder = records.folder / name
        self.folder.mkdir(exist_ok=True)
        self.environment = {}

    def left(self):
        return self.ends - time.monotonic()

    def note(self, check, result, detail=""):
        finding = {"part": self.name, "check": check, "result": result, "detail": detail}
        self.records.checks.append(finding)
        self.records.line(self.name, finding, f"{check}: {result}{': ' if detail else ''}{detail}")

    def run(self, log, command, limit=None, each=None, **environment):
        """Exit code, or None if out of time; output of both streams, which goes into the records; seconds. `each` is called with every
        line as it comes."""
        if self.left() <= 0:
            raise OutOfTime
        limit = min(self.left(), limit or self.left())
        start = time.monotonic()
        words = [str(word) for word in command]
        lines = []
        try:
            child = subprocess.Popen(
                words,
                env={**os.environ, **self.environment, **environment},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            return 127, f"error: {words[0]} cannot be started: {error.strerror}", 0.0

        def read():
            with child.stdout, open(self.folder / f"{log}.log", "w", encoding="utf-8") as file:
                for line in child.stdout:
                    file.write(line)
                    file.flush()
                    lines.append(line)
                    if each:
                        each(line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            end(child)
        # Its children may hold the other end, and are not waited for.
        reader.join(5)
        return code, "".join(lines), time.monotonic() - start

    def check_program(self, check, log, command, limit=None, detail=lambda output: "", **environment):
        """A program that must succeed."""
        code, output, seconds = self.run(log, command, limit, **environment)
        if code == 0:
            self.note(check, PASSED, detail(output) or f"{seconds:.1f} s")
            return True
        self.note(check, FAILED, because(code, output))
        return False

    def ask(self, question, *more):
        """Asks `first_contact` a question; its lines of JSON are findings. Returns them, and its failure in a sentence or ""."""
        answers = []

        def each(line):
            try:
                answer = json.loads(line)
            except ValueError:
                return
            if isinstance(answer, dict):
                answers.append(answer)
                facts = {key: value for key, value in answer.items() if key != "part"}
                self.records.line(self.name, facts, shown(facts))

        command = [self.options.here / "bin" / "first_contact", question, *more]
        if self.options.dry_run:
            command.append("--small")
        code, output, _ = self.run(question, command, each=each)
        return answers, "" if code == 0 else because(code, output)


def shown(facts):
    """A line for people: `what: key value, key value`."""
    words = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items() if key != "what"]
    return f"{facts.get('what', '')}: {', '.join(words)}"


def end(child):
    """Ends a program and its children."""
    for request, patience in REQUESTS:
        try:
            os.killpg(child.pid, request)
            child.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def because(code, output):
    """Why a program failed, in one line."""
    if code is None:
        return OUT_OF_TIME
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error: ", "Error", "test result: FAILED"))]
    line = (errors or lines or ["it says nothing"])[-1]
    return f"{line[:300]} (exit code {code})"
