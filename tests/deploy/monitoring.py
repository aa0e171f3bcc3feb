"""What the tests of this folder know about deploy/'s dashboard and rules."""

import json
import os
import re
import sys

try:
    import yaml
except ImportError:  # another Python than Debian's, which has the package python3-yaml
    sys.path.append("/usr/lib/python3/dist-packages")
    import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.normpath(os.path.join(HERE, "..", ".."))
DEPLOY = os.path.join(REPOSITORY, "deploy")
RULES = os.path.join(DEPLOY, "prometheus", "rules")
DASHBOARD = os.path.join(DEPLOY, "grafana", "dashboards", "quire.json")

# A series' name with its matchers; functions and keywords have other beginnings.
SELECTOR = re.compile(
    r"(?<![\w:])((?:quire[_:]|vllm:|process_|up\b|ALERTS\b)[\w:]*)\s*(\{[^}]*\})?"
)
HISTOGRAM_PARTS = re.compile(r"_(bucket|sum|count)$")


def read(*path):
    with open(os.path.join(REPOSITORY, *path), encoding="utf-8") as file:
        return file.read()


def load_yaml(*path):
    return yaml.safe_load(read(*path))


def load_dashboard():
    with open(DASHBOARD, encoding="utf-8") as file:
        return json.load(file)


def load_rules(kind):
    """The rules of deploy/prometheus/rules of a kind: "alert" or "record"."""
    return [
        rule
        for name in sorted(os.listdir(RULES))
        for group in load_yaml(RULES, name)["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def dashboard_queries(dashboard):
    """(where, expression) of each query of the dashboard, its variables as they stand there."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def selectors(expression):
    """The series that an expression reads, each as written: name and matchers."""
    # Text in quotes and the lists of by and on are no series.
    bare = re.sub(r"\b(by|on|group_left)\s*\([^)]*\)", " ", expression)
    return [name + (matchers or "") for name, matchers in SELECTOR.findall(bare)]


def metric_names(expression):
    return {selector.partition("{")[0] for selector in selectors(expression)}


def declared_metrics():
    """The names of docs/metrics.md, which a test compares with what the server declares."""
    return set(re.findall(r"^\| `(\w+)` \|", read("docs", "metrics.md"), re.MULTILINE))
