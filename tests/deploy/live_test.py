"""A real Prometheus scrapes a real server under a mixed load, every second, with deploy/'s rules:
every query of the dashboard, of the rules and of dashboards made for vLLM is answered without an
error and with numbers.

Environment: QUIRE_SERVER_BINARY and QUIRE_BINARY, the programs.
"""

import os
import shutil
import tempfile
import threading
import time
import unittest

import live
import monitoring

PROMETHEUS = shutil.which("prometheus")
HOW_TO_GET = "prometheus is not installed; it is a package of Debian's"

# What may be empty in a run where all goes well, and why.
MAY_BE_EMPTY = {
    'quire_request_seconds_count{code=~"INTERNAL|OTHER"}': "no call fails by the server's fault",
}
# What must have happened before the queries are looked at: first while clients call, then while
# none does, as shadows wait for that.
BUSY_EVENTS = (
    ("quire_attention_error_count", {}),
    ("quire_dense_fallback_total", {"reason": "max_error"}),
    ("quire_dense_fallback_total", {"reason": "short_text"}),
    ("quire_prefix_cached_tokens_total", {}),
    ("quire_estimate_error_ratio_count", {"event": "end"}),
    ("quire_attention_columns_total", {"context": "le_16384"}),
    ("quire_cancelled_total", {}),
)
IDLE_EVENTS = (("quire_shadow_samples_total", {}), ("quire_shadow_compared_tokens_total", {}))
BUSY_SECONDS, IDLE_SECONDS = 200, 100  # at most, with a sanitizer; otherwise 20 and 5

# What dashboards made for vLLM ask for, in the forms in which they ask.
VLLM_HISTOGRAMS = (
    "e2e_request_latency_seconds", "time_to_first_token_seconds", "inter_token_latency_seconds",
    "time_per_output_token_seconds", "request_queue_time_seconds",
)  # fmt: skip
VLLM_COUNTERS = (
    "prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total",
    "prefix_cache_hits_total", "num_preemptions_total", "request_success_total",
    "request_queue_time_seconds_sum", "request_prefill_time_seconds_sum",
    "request_decode_time_seconds_sum",
)  # fmt: skip
VLLM_GAUGES = (
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc",
)  # fmt: skip


def vllm_queries():
    model = '{model_name="quire-19m"}'
    for name in VLLM_GAUGES:
        yield f"vllm:{name}{model}"
    for name in VLLM_COUNTERS:
        yield f"rate(vllm:{name}{model}[5s])"
        yield f"sum(increase(vllm:{name}{model}[5s]))"
    for name in VLLM_HISTOGRAMS:
        for quantile in (0.5, 0.9, 0.95, 0.99):
            rates = f"rate(vllm:{name}_bucket{model}[5s])"
            yield f"histogram_quantile({quantile}, sum by (le) ({rates}))"
        yield f"rate(vllm:{name}_sum{model}[5s]) / rate(vllm:{name}_count{model}[5s])"
    for reason in ("stop", "abort"):
        yield f'vllm:request_success_total{{model_name="quire-19m",finished_reason="{reason}"}}'


class Load:
    """Clients of several kinds, each calling again as soon as it is answered."""

    def __init__(self, server, folder):
        self.server, self.over, self.failures = server, threading.Event(), []
        with open(live.SAMPLE, encoding="utf-8") as file:
            text = file.read()
        self.long = self.write(folder, "long.txt", text[:16500])  # some 4,800 tokens
        self.short = self.write(folder, "short.txt", text[:400])
        refined = ("--attention", "refined")
        kinds = (
            [("score", self.long, *refined), ("score", self.long, *refined, "--max-error", "1e-6")],
            [("summarize", self.long, "--strategy", "extractive", "--words", "30"),
             ("generate", "--file", self.long, "--max-tokens", "30")],
            [("generate", "The captain said", "--ignore-eos", "--max-tokens", "40"),
             ("generate", "--file", self.short, "--max-tokens", "20", *refined)],
            [("score", self.long, "--attention", "dense", "--timeout", "0.3")],
        )  # fmt: skip
        self.threads = [
            threading.Thread(target=self.call, args=(f"tenant-{i}", calls))
            for i, calls in enumerate(kinds)
        ]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def write(folder, name, text):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def call(self, tenant, calls):
        number = 0
        while not self.over.is_set():
            arguments = calls[number % len(calls)]
            client = self.server.quire("--tenant", tenant, "--quiet", *arguments)
            output, _ = client.communicate()
            # 4: the server is full; 5: --timeout, which a fast machine meets.
            if client.returncode not in ((0, 4, 5) if "--timeout" in arguments else (0, 4)):
                self.failures.append((arguments, client.returncode, output))
            number += 1

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


@unittest.skipUnless(PROMETHEUS, HOW_TO_GET)
class LiveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.server = live.Server(
            os.environ["QUIRE_SERVER_BINARY"], os.environ["QUIRE_BINARY"], folder
        )
        cls.addClassCleanup(cls.server.stop)
        cls.prometheus = live.Prometheus(PROMETHEUS, cls.server.http, folder)
        cls.addClassCleanup(cls.prometheus.stop)
        cls.start = time.time()
        load = Load(cls.server, folder)
        try:
            cls.missing = cls.wait_for(BUSY_EVENTS, BUSY_SECONDS)
        finally:
            load.end()
        cls.failures = load.failures
        cls.missing += cls.wait_for(IDLE_EVENTS, IDLE_SECONDS)
        time.sleep(3)  # a scrape, and the rules that build on rules

    @classmethod
    def wait_for(cls, events, seconds):
        """Those that did not happen."""
        end = time.monotonic() + seconds
        while True:
            missing = [event for event in events if cls.server.metric(event[0], **event[1]) == 0]
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(0.5)

    def assert_all_have_numbers(self, queries):
        """`queries`: (where, expression)."""
        wrong = []
        for where, expression in queries:
            try:
                if not self.prometheus.series(expression, self.start):
                    wrong.append(f"{where}: no numbers: {expression}")
            except AssertionError as error:
                wrong.append(f"{where}: {error}: {expression}")
        self.assertEqual(wrong, [], "\n" + "\n".join(wrong))

    def test_the_load_was_what_it_should_be(self):
        self.assertEqual(self.failures, [])
        self.assertEqual(self.missing, [])

    def test_prometheus_found_nothing_to_complain_about(self):
        (target,) = self.prometheus.api("targets")["activeTargets"]
        self.assertEqual((target["health"], target["lastError"]), ("up", ""))
        self.assertEqual(self.prometheus.output(), "")

    def test_every_query_of_the_dashboard_has_numbers(self):
        self.assert_all_have_numbers(
            (where, self.filled(expression))
            for where, expression in monitoring.dashboard_queries(monitoring.load_dashboard())
            if not expression.startswith("ALERTS{")  # nothing is wrong, so it may be empty
        )

    def test_every_rule_is_evaluated_without_an_error(self):
        groups = self.prometheus.api("rules")["groups"]
        rules = [
            rule for group in groups for rule in group["rules"] if group["name"] != "texts"
        ]
        written = len(monitoring.load_rules("alert")) + len(monitoring.load_rules("record"))
        self.assertEqual(len(rules), written)
        for rule in rules:
            self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])

    def test_every_recorded_series_has_numbers(self):
        names = {rule["record"] for rule in monitoring.load_rules("record")}
        self.assert_all_have_numbers((name, name) for name in sorted(names))

    def test_everything_that_the_rules_read_is_there(self):
        rules = [*monitoring.load_rules("alert"), *monitoring.load_rules("record")]
        read = {selector for rule in rules for selector in monitoring.selectors(rule["expr"])}
        self.assert_all_have_numbers((s, s) for s in sorted(read - set(MAY_BE_EMPTY)))

    def test_every_alert_is_a_query_without_an_error(self):
        for rule in monitoring.load_rules("alert"):
            self.prometheus.series(rule["expr"], self.start)

    def test_alerts_texts_are_filled_in(self):
        alerts = [
            alert for alert in self.prometheus.api("alerts")["alerts"]
            if alert["labels"]["alertname"].startswith("TextOf")
        ]  # fmt: skip
        self.assertEqual(len(alerts), len(monitoring.load_rules("alert")))
        for alert in alerts:
            summary = alert["annotations"]["summary"]
            self.assertIn("a:9090", summary)
            self.assertNotRegex(" ".join(alert["annotations"].values()), r"[<>{}]|%!")

    def test_queries_of_dashboards_made_for_vllm_have_numbers(self):
        self.assert_all_have_numbers(("vllm", query) for query in vllm_queries())

    def test_the_dashboard_says_what_the_counters_say(self):
        page = self.server.metric
        executed = page("quire_attention_flops_total")
        dense = page("quire_attention_flops_dense_equivalent_total")
        queries = dict(monitoring.dashboard_queries(monitoring.load_dashboard()))
        query = self.filled(queries["Work saved since start A"])
        (shown,) = self.prometheus.series(query, self.start).values()
        self.assertAlmostEqual(shown[-1], 1 - executed / dense, places=6)
        self.assertGreater(shown[-1], 0.1)

    @staticmethod
    def filled(expression):
        """A query of the dashboard with all chosen."""
        for variable in ("instance", "model"):
            expression = expression.replace(f"${variable}", ".*")
        return expression.replace("$__rate_interval", "5s")


if __name__ == "__main__":
    unittest.main(verbosity=2)
