"""A real quire-server under load, scraped by a real Prometheus with deploy/'s rules."""

import json
import math
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import monitoring

MODEL = os.path.join(monitoring.REPOSITORY, "models", "quire-19m")
SAMPLE = os.path.join(monitoring.DEPLOY, "sample", "arrest-of-arsene-lupin.txt")
JOB = "quire"


def get(url, form=None):
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=20) as answer:
        return answer.read().decode()


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def alerts_that_fire_at_once():
    """The alerts' texts, with a value and labels as they have them, under names of their own."""
    labels = {"job": JOB, "instance": "a:9090", "model": "m", "event": "end"}
    value = "vector(0.5)"
    for label, text in labels.items():
        value = f'label_replace({value}, "{label}", "{text}", "", "")'
    return [
        {"alert": f"TextOf{rule['alert']}", "expr": value, "annotations": rule["annotations"]}
        for rule in monitoring.load_rules("alert")
    ]


class Program:
    """A process that is ended with the object; its output goes to a file."""

    def __init__(self, arguments, log):
        self.log = log
        with open(log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def output(self):
        with open(self.log, encoding="utf-8") as file:
            return file.read()


class Server(Program):
    """Everything is measured against dense attention, so that shadows have something to tell."""

    def __init__(self, server, client, folder):
        self.client = client
        ports = os.path.join(folder, "ports")
        super().__init__(
            [server, "--model", MODEL, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
             "--port-file", ports, "--price-per-device-hour", "3", "--shadow-share", "1",
             "--shadow-device-seconds-per-minute", "60", "--device", "cpu"],
            os.path.join(folder, "server.log"),
        )  # fmt: skip
        wait_for(lambda: os.path.exists(ports) or self.process.poll() is not None, 60, "ports")
        if not os.path.exists(ports):
            raise AssertionError(self.output())
        with open(ports, encoding="utf-8") as file:
            named = dict(line.strip().split("=", 1) for line in file)
        self.grpc, self.http = named["grpc"], named["http"]

    def quire(self, *arguments):
        """A running client."""
        return subprocess.Popen(
            [self.client, "--server", self.grpc, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def metric(self, name, **labels):
        """The sum of the series that have the name and at least these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0
        for line in get(f"http://{self.http}/metrics").splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(label in series for label in wanted):
                total += float(value)
        return total


class Prometheus(Program):
    """Scrapes and evaluates every second."""

    def __init__(self, program, target, folder):
        config = monitoring.load_yaml("deploy", "prometheus", "prometheus.yml")
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        texts = os.path.join(folder, "texts.yml")
        with open(texts, "w", encoding="utf-8") as file:
            json.dump({"groups": [{"name": "texts", "rules": alerts_that_fire_at_once()}]}, file)
        config["rule_files"] = [os.path.join(monitoring.RULES, "*.yml"), texts]
        config["scrape_configs"] = [
            job for job in config["scrape_configs"] if job["job_name"] == JOB
        ]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        path = os.path.join(folder, "prometheus.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)  # JSON is YAML too
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(
            [program, f"--config.file={path}", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={self.address}", "--log.level=warn"],
            os.path.join(folder, "prometheus.log"),
        )  # fmt: skip
        wait_for(self.ready, 30, "Prometheus ready")

    def ready(self):
        try:
            return bool(get(f"http://{self.address}/-/ready"))
        except urllib.error.URLError:
            return False

    def api(self, path, **form):
        """The answer's data; AssertionError with Prometheus' own words if it refuses."""
        try:
            answer = get(f"http://{self.address}/api/v1/{path}", form)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        return json.loads(answer)["data"]

    def series(self, expression, start):
        """What an expression was from then on, second by second: {labels: numbers}."""
        found = self.api(
            "query_range", query=expression, start=start, end=time.time(), step="1s"
        )["result"]
        return {
            json.dumps(series["metric"], sort_keys=True): numbers
            for series in found
            if (numbers := [n for _, text in series["values"] if not math.isnan(n := float(text))])
        }
