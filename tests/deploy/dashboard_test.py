"""deploy/grafana: the dashboard's JSON is what Grafana reads, laid out without overlaps, explained
panel by panel, legible in light and dark, and complete: every metric of the server is on it."""

import collections
import json
import re
import unittest

import monitoring
import schemas

# Declared, but of no use on a dashboard.
NOT_SHOWN = {
    "process_virtual_memory_bytes": "says nothing of a program that maps its weights",
    "process_max_fds": "a constant; an alert compares with it",
}
ROWS = ["Savings", "Quality", "Latency", "Load", "Device", "Process"]


def values(node, key):
    """All values of a key, however deep."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from values(item, key)


class DashboardTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dashboard = monitoring.load_dashboard()
        cls.panels = cls.dashboard["panels"]
        cls.shown = [panel for panel in cls.panels if panel["type"] != "row"]

    def test_rows(self):
        rows = [panel["title"] for panel in self.panels if panel["type"] == "row"]
        self.assertEqual(rows, ROWS)

    def test_ids_and_titles_are_unique(self):
        for key in ("id", "title"):
            counts = collections.Counter(panel[key] for panel in self.panels)
            self.assertEqual([k for k, count in counts.items() if count > 1], [], key)

    def test_panels_neither_overlap_nor_stick_out(self):
        taken = {}
        for panel in self.panels:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    other = taken.setdefault((x, y), panel["title"])
                    self.assertEqual(other, panel["title"], "overlap")

    def test_panels_leave_no_holes_above_them(self):
        bottoms = [0] * 24
        for panel in self.panels:
            place = panel["gridPos"]
            columns = range(place["x"], place["x"] + place["w"])
            self.assertEqual({bottoms[x] for x in columns}, {place["y"]}, panel["title"])
            for x in columns:
                bottoms[x] = place["y"] + place["h"]
            if panel["type"] == "row":
                self.assertEqual(place["w"], 24)

    def test_every_panel_explains_itself(self):
        for panel in self.shown:
            self.assertGreater(len(panel["description"]), 10, panel["title"])
            self.assertTrue(panel["description"].endswith("."), panel["title"])
            self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
            self.assertTrue(panel["targets"], panel["title"])

    def test_everything_is_read_from_the_chosen_source(self):
        for source in values(self.dashboard, "datasource"):
            self.assertEqual(source, {"type": "prometheus", "uid": "${datasource}"})
        for panel in self.shown:
            for part in (panel, *panel["targets"]):
                self.assertIn("datasource", part, panel["title"])

    def test_queries_keep_to_the_chosen_servers(self):
        for where, expression in monitoring.dashboard_queries(self.dashboard):
            for selector in monitoring.selectors(expression):
                # Those that follow `and on (job, instance)` are bound by the other side.
                if not selector.startswith("ALERTS") and selector != "quire_build_info":
                    self.assertIn('instance=~"$instance"', selector, where)

    def test_variables(self):
        names = [variable["name"] for variable in self.dashboard["templating"]["list"]]
        self.assertEqual(names, ["datasource", "model", "instance"])
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(self.panels)))
        self.assertEqual(used, {*names, "__rate_interval"})

    def test_colours_follow_the_theme(self):
        text = json.dumps(self.dashboard)
        self.assertEqual(re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", text), [])

    def test_every_metric_is_shown_and_nothing_else(self):
        declared = monitoring.declared_metrics()
        records = {rule["record"] for rule in monitoring.load_rules("record")}
        used = set()
        for _, expression in monitoring.dashboard_queries(self.dashboard):
            for name in monitoring.metric_names(expression):
                base = monitoring.HISTOGRAM_PARTS.sub("", name)
                used.add(base if base in declared else name)
        self.assertEqual(used - declared - records, {"ALERTS", "up"})
        self.assertEqual(declared - used, set(NOT_SHOWN))

    def test_grafanas_own_types_read_it(self):
        code, output = schemas.run(self, "dashboard", monitoring.DASHBOARD)
        self.assertEqual(code, 0, output)

    def test_provisioning_points_to_what_the_container_has(self):
        folder = ("deploy", "grafana", "provisioning")
        (source,) = monitoring.load_yaml(*folder, "datasources", "prometheus.yml")["datasources"]
        (provider,) = monitoring.load_yaml(*folder, "dashboards", "quire.yml")["providers"]
        config = monitoring.load_yaml("deploy", "prometheus", "prometheus.yml")
        interval = config["global"]["scrape_interval"]
        self.assertEqual(source["jsonData"]["timeInterval"], interval)
        grafana = monitoring.load_yaml("deploy", "compose.yaml")["services"]["grafana"]
        targets = [volume.split(":")[1] for volume in grafana["volumes"]]
        self.assertIn(provider["options"]["path"], targets)
        self.assertEqual(source["url"], "http://prometheus:9090")


if __name__ == "__main__":
    unittest.main(verbosity=2)
