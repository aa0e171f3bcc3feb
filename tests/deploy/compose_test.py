"""deploy/compose.yaml and deploy/Dockerfile: by the code that `docker compose` reads such files
with, and that what they name is there. No Docker engine is needed, and none is used."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import monitoring
import schemas

COMPOSE = os.path.join(monitoring.DEPLOY, "compose.yaml")
HEALTH_TOOLS = {"quire": "quire", "prometheus": "wget", "grafana": "wget"}  # the images have them


def dockerfile(instruction):
    """The arguments of the last stage's instructions of a kind, lines that go on joined."""
    text = monitoring.read("deploy", "Dockerfile").replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]
    return re.findall(rf"^(?:{instruction}) (.*)$", stage, re.MULTILINE)


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.compose = monitoring.load_yaml(COMPOSE)
        cls.services = cls.compose["services"]
        cls.text = monitoring.read(COMPOSE)
        cls.page = monitoring.read("docs", "dashboards.md")

    def test_compose_itself_loads_it(self):
        code, output = schemas.run(self, "compose", COMPOSE)
        self.assertEqual(code, 0, output)
        loaded = json.loads(output)
        self.assertEqual(set(loaded["services"]), {"quire", "prometheus", "grafana"})
        published = {
            port["published"]: (name, port["target"], port["host_ip"])
            for name, service in loaded["services"].items() for port in service["ports"]
        }  # fmt: skip
        here = "127.0.0.1"
        self.assertEqual(published, {
            "50051": ("quire", 50051, here), "8080": ("quire", 9090, here),
            "9090": ("prometheus", 9090, here), "3000": ("grafana", 3000, here)})  # fmt: skip
        for name, service in loaded["services"].items():
            self.assertTrue(int(service["mem_limit"]) > 0, name)

    def test_compose_refuses_what_is_wrong(self):
        for wrong in ("services: {a: {image: b, prots: []}}", "services: {a: {volumes: [x:/y]}}"):
            folder = self.enterContext(tempfile.TemporaryDirectory())
            path = os.path.join(folder, "compose.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(wrong)
            code, output = schemas.run(self, "compose", path)
            self.assertEqual(code, 1, output)

    def test_images_are_pinned_and_documented(self):
        for name, service in self.services.items():
            image = service["image"]
            pinned = r"(quire:latest|[a-z]+/[a-z]+:v?\d+\.\d+\.\d+)"
            self.assertRegex(image, f"^{pinned}$", name)
            self.assertIn(f"`{image}`", self.page)
        self.assertEqual([n for n, s in self.services.items() if "build" in s], ["quire"])

    def test_what_is_built_is_there(self):
        build = self.services["quire"]["build"]
        context = os.path.join(monitoring.DEPLOY, build["context"])
        self.assertEqual(os.path.realpath(context), os.path.realpath(monitoring.REPOSITORY))
        self.assertTrue(os.path.isfile(os.path.join(context, build["dockerfile"])))

    def test_ports_are_those_that_are_listened_on_and_documented(self):
        listening = {
            "quire": set(re.findall(r"0\.0\.0\.0:(\d+)", dockerfile("CMD")[-1])),
            "prometheus": {"9090"},
            "grafana": {"3000"},
        }
        self.assertEqual(set(dockerfile("EXPOSE")[0].split()), listening["quire"])
        for name, service in self.services.items():
            mapped = [port.rsplit(":", 2) for port in service["ports"]]
            self.assertEqual({target for *_, target in mapped}, listening[name])
            for address, published, _ in mapped:
                self.assertEqual(address, "${QUIRE_BIND:-127.0.0.1}")
                self.assertIn(f"localhost:{published}", self.page)

    def test_volumes_and_paths_are_there(self):
        used = set()
        for service in self.services.values():
            for volume in service.get("volumes", ()):
                source, target, *mode = volume.split(":")
                self.assertTrue(target.startswith("/"))
                if source.startswith("./"):
                    self.assertTrue(os.path.exists(os.path.join(monitoring.DEPLOY, source)), source)
                    self.assertEqual(mode, ["ro"], source)
                else:
                    used.add(source)
                    self.assertIn(f"`{source}`", self.page)
        self.assertEqual(used, set(self.compose["volumes"]))

    def test_prometheus_finds_its_files_and_the_server(self):
        service = self.services["prometheus"]
        mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
        config_file = mounts["./prometheus/prometheus.yml"]
        self.assertIn(f"--config.file={config_file}", service["command"])
        self.assertIn(f"--storage.tsdb.path={mounts['prometheus-data']}", service["command"])
        config = monitoring.load_yaml("deploy", "prometheus", "prometheus.yml")
        rules = os.path.join(os.path.dirname(config_file), *config["rule_files"])
        self.assertEqual(rules, mounts["./prometheus/rules"] + "/*.yml")
        targets = {
            job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
        }
        self.assertEqual(targets["quire"], ["quire:9090"])

    def test_grafana_finds_its_home(self):
        grafana = self.services["grafana"]
        mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
        home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertEqual(home, mounts["./grafana/dashboards"] + "/quire.json")
        self.assertEqual(mounts["./grafana/provisioning"], "/etc/grafana/provisioning")

    def test_health_and_limits(self):
        for name, service in self.services.items():
            self.assertEqual(service["healthcheck"]["test"][:2], ["CMD", HEALTH_TOOLS[name]])
            self.assertIn("mem_limit", service, name)
            self.assertEqual(service["restart"], "unless-stopped")
            self.assertIs(service["read_only"], True)
            self.assertEqual(service["cap_drop"], ["ALL"])
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
        for name in ("prometheus", "grafana"):
            self.assertRegex(self.services[name]["user"], r"^[1-9]\d*:\d+$")

    def test_variables_are_options_and_documented(self):
        config = monitoring.read("server", "config.cc")
        for variable in self.services["quire"]["environment"]:
            option = variable.removeprefix("QUIRE_").lower()
            self.assertIn(f'{{"{option}"', config, variable)
        for variable in set(re.findall(r"\$\{(\w+)", self.text)):
            self.assertIn(f"`{variable}`", self.page)
            self.assertIn(f"#   {variable} ", self.text)


class DockerfileTest(unittest.TestCase):
    def test_runs_what_is_installed_and_not_as_root(self):
        self.assertEqual(dockerfile("USER"), ["10001"])
        self.assertEqual(dockerfile("ENTRYPOINT"), ['["quire-server"]'])
        self.assertIn("PATH=/opt/quire/bin:$PATH", dockerfile("ENV"))
        self.assertEqual(dockerfile("STOPSIGNAL"), ["SIGTERM"])
        install = monitoring.read("deploy", "install.sh")
        self.assertIn("PREFIX/bin            quire-server, quire", install)
        model = re.search(r'/opt/quire/(share/quire/models/)([\w-]+)"', dockerfile("CMD")[-1])
        self.assertIn(f'/models/{model[2]}" "$prefix/{model[1]}"', install)

    def test_scripts_that_it_runs_are_there(self):
        text = monitoring.read("deploy", "Dockerfile")
        for script in re.findall(r"bash (\S+\.sh)", text):
            self.assertTrue(os.path.isfile(os.path.join(monitoring.REPOSITORY, script)), script)

    def test_nothing_is_left_out_that_the_build_needs(self):
        git = shutil.which("git")
        if git is None or not os.path.exists(os.path.join(monitoring.REPOSITORY, ".git")):
            self.skipTest("what is committed is known only in a git checkout")
        tracked = subprocess.run(
            [git, "ls-files"], cwd=monitoring.REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        lines = monitoring.read(".dockerignore").splitlines()
        ignored = [line.removeprefix("**/") for line in lines if line and line[0] != "#"]
        left_out = {
            path for path in tracked for pattern in ignored
            if any(fnmatch.fnmatch("/".join(path.split("/")[: n + 1]), pattern)
                   for n in range(path.count("/") + 1))
        }  # fmt: skip
        monitoring_only = ("deploy/compose.yaml", "deploy/grafana/", "deploy/prometheus/")
        self.assertEqual({p for p in left_out if not p.startswith(monitoring_only)}, set())
        self.assertIn("deploy/compose.yaml", left_out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
