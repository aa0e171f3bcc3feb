"""deploy/demo.sh with a server and a client that only pretend: what it starts, it stops.

Each case copies deploy/ into a folder of its own, with a build.sh that does nothing and two
small scripts in the place of the programs.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

DEPLOY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy")

# Writes its process id, answers /metrics once and waits for SIGTERM.
SERVER = """#!/usr/bin/env python3
import http.server, os, signal, sys
pid_file = os.path.join(os.path.dirname(__file__), "pid")
open(pid_file, "w").write(str(os.getpid()))
print("a line of the server's log", flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"quire_prompt_tokens_total 5948\\nother 1\\n")

server = http.server.HTTPServer(("127.0.0.1", 0), Metrics)
with open(sys.argv[sys.argv.index("--port-file") + 1], "w") as ports:
    ports.write("grpc=127.0.0.1:5\\nhttp=127.0.0.1:%d\\n" % server.server_port)
server.serve_forever()
"""
CLIENT = '#!/usr/bin/env bash\necho "client $*"\n'


class DemoTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.repo = folder.name
        shutil.copytree(DEPLOY, os.path.join(self.repo, "deploy"))
        self.write("deploy/build.sh", "#!/usr/bin/env bash\n")
        self.write("build/cpu-release/bin/quire-server", SERVER)
        self.write("build/cpu-release/bin/quire", CLIENT)

    def write(self, path, text):
        path = os.path.join(self.repo, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def start(self, *arguments):
        return subprocess.Popen(
            ["bash", os.path.join(self.repo, "deploy/demo.sh"), *arguments],
            env={**os.environ, "TMPDIR": self.repo},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def demo(self, *arguments):
        """(exit code, output)"""
        run = self.start(*arguments)
        output = run.communicate(timeout=60)[0]
        return run.returncode, output

    def server_pid(self):
        with open(os.path.join(self.repo, "build/cpu-release/bin/pid"), encoding="utf-8") as f:
            return int(f.read())

    def server_runs(self):
        try:
            os.kill(self.server_pid(), 0)
        except ProcessLookupError:
            return False
        with open(f"/proc/{self.server_pid()}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"

    def test_summarises_and_stops_the_server(self):
        code, output = self.demo("--words", "90")
        self.assertEqual(code, 0, output)
        chapter = os.path.join(self.repo, "deploy/sample/arrest-of-arsene-lupin.txt")
        self.assertIn(f"client --server 127.0.0.1:5 summarize {chapter} --words 90\n", output)
        self.assertIn("/metrics:\n  quire_prompt_tokens_total 5948\n", output)
        self.assertNotIn("a line of the server's log", output)
        self.assertFalse(self.server_runs())

    def test_keep_leaves_the_server_and_says_how_to_stop_it(self):
        code, output = self.demo("--keep")
        self.assertEqual(code, 0, output)
        self.assertTrue(self.server_runs())
        self.assertIn(f"this stops it: kill {self.server_pid()}\n", output)
        # The last line leads to the page.
        self.assertRegex(output.splitlines()[-1], r" http://127\.0\.0\.1:\d+/$")
        os.kill(self.server_pid(), signal.SIGKILL)

    def test_failed_client_stops_the_server_and_shows_its_log(self):
        self.write("build/cpu-release/bin/quire", "#!/usr/bin/env bash\nexit 5\n")
        code, output = self.demo()
        self.assertEqual(code, 5, output)
        self.assertIn("failed; the end of the server's log:\na line of the server's log\n", output)
        self.assertFalse(self.server_runs())

    def test_server_that_ends_early(self):
        self.write("build/cpu-release/bin/quire-server", "#!/usr/bin/env bash\necho no model\n")
        code, output = self.demo()
        self.assertEqual(code, 1, output)
        self.assertIn("the server ended before it was ready", output)
        self.assertIn("the end of the server's log:\nno model\n", output)

    def test_interrupt_stops_the_server(self):
        self.write("build/cpu-release/bin/quire", "#!/usr/bin/env bash\necho on\nexec sleep 60\n")
        run = self.start()
        for line in run.stdout:
            if line == "on\n":
                break
        # A terminal sends SIGINT to the whole group; here the client is ended by hand.
        run.send_signal(signal.SIGINT)
        subprocess.run(["pkill", "-P", str(run.pid), "sleep"], check=False)
        run.communicate(timeout=60)
        self.assertEqual(run.returncode, 130)
        time.sleep(0.1)
        self.assertFalse(self.server_runs())

    def test_missing_file(self):
        code, output = self.demo("absent.txt")
        self.assertEqual(code, 1, output)
        self.assertIn("there is no readable file", output)

    def test_unknown_option(self):
        self.assertEqual(self.demo("--frobnicate")[0], 2)


if __name__ == "__main__":
    unittest.main()
