"""deploy/prometheus: its rules and their unit tests, by promtool; that every alert has both kinds
of case and says what to do; that rules read only metrics that exist."""

import glob
import os
import re
import shutil
import subprocess
import unittest

import monitoring

PROMTOOL = shutil.which("promtool")
CASES = os.path.join(monitoring.HERE, "rules", "*.test.yml")
HOW_TO_GET = "promtool is not installed; Debian's package prometheus has it"


def promtool(*arguments):
    run = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


@unittest.skipUnless(PROMTOOL, HOW_TO_GET)
class PromtoolTest(unittest.TestCase):
    def test_configuration_and_rules_are_valid(self):
        path = os.path.join(monitoring.DEPLOY, "prometheus", "prometheus.yml")
        code, output = promtool("check", "config", path)
        self.assertEqual(code, 0, output)
        self.assertIn("3 rule files found", output)
        self.assertNotIn("lint error", output)

    def test_every_case_of_the_alerts(self):
        code, output = promtool("test", "rules", *sorted(glob.glob(CASES)))
        self.assertEqual(code, 0, output)


class AlertsTest(unittest.TestCase):
    def setUp(self):
        self.alerts = {rule["alert"]: rule for rule in monitoring.load_rules("alert")}

    def test_each_has_a_case_that_fires_and_one_that_does_not(self):
        names = [
            case["name"] for path in glob.glob(CASES)
            for case in monitoring.load_yaml(path)["tests"]
        ]  # fmt: skip
        for alert in self.alerts:
            for what in ("fires", "is silent"):
                pattern = re.compile(rf"{alert} {what}(:|$)")
                self.assertTrue(any(map(pattern.match, names)), f"no case '{alert} {what}'")

    def test_each_says_what_happened_what_it_means_and_what_to_do(self):
        for name, rule in self.alerts.items():
            self.assertEqual(
                list(rule["annotations"]), ["summary", "description", "action", "runbook"], name
            )
            self.assertIn(rule["labels"]["severity"], ("critical", "warning", "info"), name)
            self.assertIn("$labels.instance", rule["annotations"]["summary"], name)

    def test_each_has_its_paragraph(self):
        page = monitoring.read("docs", "dashboards.md")
        headings = re.findall(r"^### (\w+)$", page, re.MULTILINE)
        self.assertEqual(sorted(headings), sorted(self.alerts))
        for name, rule in self.alerts.items():
            self.assertEqual(rule["annotations"]["runbook"], f"docs/dashboards.md#{name.lower()}")


class NamesTest(unittest.TestCase):
    def test_rules_read_only_what_is_declared_or_recorded(self):
        records = {rule["record"] for rule in monitoring.load_rules("record")}
        known = records | monitoring.declared_metrics() | {"up"}
        rules = [*monitoring.load_rules("record"), *monitoring.load_rules("alert")]
        for rule in rules:
            for name in monitoring.metric_names(rule["expr"]):
                base = monitoring.HISTOGRAM_PARTS.sub("", name)
                self.assertTrue({name, base} & known, f"{name} in {rule['expr']}")

    def test_every_recorded_name_says_whose_it_is(self):
        for rule in monitoring.load_rules("record"):
            self.assertRegex(rule["record"], r"^(quire:[a-z0-9_]+:\w+|vllm:[a-z0-9_]+)$")

    def test_the_memory_limit_is_the_containers(self):
        (limit,) = (
            rule["expr"] for rule in monitoring.load_rules("record")
            if rule["record"] == "quire:memory_limit:bytes"
        )  # fmt: skip
        compose = monitoring.load_yaml("deploy", "compose.yaml")
        gibibytes = int(compose["services"]["quire"]["mem_limit"].removesuffix("g"))
        self.assertEqual(int(limit.split()[0]), gibibytes << 30)


if __name__ == "__main__":
    unittest.main(verbosity=2)
