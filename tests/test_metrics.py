#!/usr/bin/env python3
"""signal-busctl metrics: the text by Prometheus's own parser, the server over HTTP, the page in a browser.

usage: test_metrics.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. Needs prometheus_client and selenium, of PyPI: tests/make-venv fetches them. The page's tests need
chromium and chromedriver and are skipped without. $BUS_TEST_SCREENSHOTS names a directory for pictures of the
page. No test depends on how fast the machine is.
"""
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import python_venv

python_venv.enter(os.path.abspath(sys.argv[1]))

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402  (only there now)
import tap  # noqa: E402
import test_busctl  # noqa: E402
from tap import Skip  # noqa: E402
from test_busctl import BUSCTL, SOURCE, WAIT_S, Bus, Chain, busctl, finish, until  # noqa: E402


class Server:
    """`metrics` of a bus, on a port of its own."""

    def __init__(self, bus, *arguments, port=0):
        self.bus = bus
        self.errors = os.path.join(bus.root, "metrics.log")
        with open(self.errors, "a") as log:
            self.process = bus.start(BUSCTL, "metrics", "--bus", bus.directory, "--listen", f"127.0.0.1:{port}",
                                     "--interval-ms", "100", *arguments, stderr=log)
        line = self.process.stdout.readline()
        self.port = int(re.match(rf"bus {bus.directory}: http://127\.0\.0\.1:(\d+)/ ", line).group(1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    def series(self):
        """{(name, labels): value}, as Prometheus reads them."""
        status, headers, text = self.ask("/metrics")
        assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", headers
        found = {}
        for family in text_string_to_metric_families(text):
            assert family.documentation and family.type != "unknown", family
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in found, key
                found[key] = sample.value
        return found

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        finish(self.process)

    def log(self):
        with open(self.errors) as file:
            return file.read()


def value(series, metric, /, **labels):
    return series[metric, tuple(sorted(labels.items()))]


def the_text_is_what_info_says():
    with Chain() as bus:
        until("signals", lambda: test_busctl.counter_of(bus.directory, "trader", "signals"))
        bus.stop()  # nothing moves any more
        members = bus.info()
        with Server(bus) as server:
            series = server.series()
            version = busctl("--version")[0].split()[-1]
            assert value(series, "signalbus_info", version=version, directory=bus.directory) == 1
            assert series["signalbus_up", ()] == 1
            for name, member in members.items():
                assert value(series, "signalbus_member_info", member=name, kind=member["kind"],
                             backing=member["backing"], core=str(member["core"]), numa_node=str(member["numa_node"]),
                             epoch=str(member["epoch"])) == 1
                assert value(series, "signalbus_member_up", member=name) == 0
                assert value(series, "signalbus_member_epoch", member=name) == member["epoch"]
                assert value(series, "signalbus_member_file_bytes", member=name) == member["file_bytes"]
                for status in ("alive", "stalled", "dead", "gone"):
                    assert value(series, "signalbus_member_status", member=name, status=status) == (status == "dead")
                assert value(series, "signalbus_member_state", member=name, state="halt") == 1
                for ring in member["rings"]:
                    labels = {"member": name, "ring": ring["name"], "consumer": ring["consumer"]}
                    for metric, key in (("records_total", "committed_records"), ("waits_total", "waits"),
                                        ("dropped_records_total", "dropped_records"),
                                        ("depth_records", "depth_records"), ("lag_records", "lag_records")):
                        if ring[key] is not None:
                            assert value(series, "signalbus_ring_" + metric, **labels) == ring[key], (metric, ring)
                        else:
                            assert ("signalbus_ring_" + metric, tuple(sorted(labels.items()))) not in series
                for position in member["positions"]:
                    assert value(series, "signalbus_position_lost_records_total", member=name, ring=position["ring"],
                                 producer=position["producer"]) == position["lost_records"]
                for counter in member["counters"]:
                    labels, figure = {"member": name, "name": counter["name"]}, counter["value"]
                    if counter["name"].endswith("_max"):
                        assert abs(value(series, "signalbus_member_maximum_seconds", **labels) - figure / 1e9) < 1e-12
                    elif counter["unit"] == "bytes":
                        assert value(series, "signalbus_member_bytes_total", **labels) == figure
                    else:
                        assert value(series, "signalbus_member_events_total", unit=counter["unit"], **labels) == figure
                for histogram in member["histograms"]:
                    labels = {"member": name, "name": histogram["name"]}
                    prefix = "signalbus_latency_seconds_"
                    assert value(series, prefix + "count", **labels) == histogram["count"] > 0
                    buckets = sorted((float(dict(key[1])["le"]), figure) for key, figure in series.items()
                                     if key[0] == prefix + "bucket" and labels.items() <= dict(key[1]).items())
                    figures = [figure for _, figure in buckets]
                    assert len(buckets) == 62 and figures == sorted(figures), buckets
                    assert buckets[-1] == (float("inf"), histogram["count"])
                    for quantile, key in ((0.5, "p50"), (0.99, "p99")):
                        # The quantile that info prints lies in the bucket that the text gives.
                        le = next(le for le, figure in buckets if figure >= quantile * histogram["count"])
                        assert histogram[key] / 1e9 <= le * 1.0001, (key, histogram, buckets)
            server.stop()
            assert not server.log(), server.log()


def promtool_has_nothing_to_say():
    if not shutil.which("promtool"):
        raise Skip("no promtool (Debian's package prometheus)")
    with Chain() as bus, Server(bus) as server:
        until("signals", lambda: test_busctl.counter_of(bus.directory, "trader", "signals"))
        done = subprocess.run(["promtool", "check", "metrics"], input=server.ask("/metrics")[2], capture_output=True,
                              text=True, timeout=WAIT_S)
        assert done.returncode == 0 and not done.stdout + done.stderr, done
        server.stop()
        bus.stop()


def figures_move_and_the_snapshot_is_that_of_top():
    with Chain() as bus, Server(bus) as server:
        records = ("signalbus_ring_records_total", (("consumer", "infer"), ("member", "feed"), ("ring", "features")))
        first = until("records", lambda: server.series().get(records))
        until("more of them", lambda: server.series()[records] > first)
        snapshot = until("rates", lambda: (lambda view: view if view["interval_ns"] and view["rings"][0][
            "rate_records_per_s"] > 0 else None)(json.loads(server.ask("/api/snapshot.json")[2])))
        top = json.loads(busctl("top", "--once", "--json", "--interval-ms", "50", "--bus", bus.directory)[0])

        def shape(thing):
            if isinstance(thing, dict):
                return {key: shape(item) for key, item in thing.items()}
            return "list" if isinstance(thing, list) else "value"
        assert shape(snapshot) == shape(top)
        for key in ("members", "rings", "positions", "histograms"):
            assert [shape(item) for item in snapshot[key]] == [shape(item) for item in top[key]], key
        assert server.ask("/healthz")[::2] == (200, "ok: 4 members, 4 alive\n") or \
            until("all alive", lambda: "4 members, 4 alive" in server.ask("/healthz")[2])
        server.stop()
        bus.stop()


def it_answers_what_it_has_and_refuses_the_rest():
    with Bus() as bus, Server(bus) as server:
        status, headers, page = server.ask("/")
        with open(os.path.join(SOURCE, "tools", "web", "index.html")) as file:
            assert status == 200 and page == file.read()
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        # It needs nothing from elsewhere: no address but that which names SVG.
        assert set(re.findall(r"\w+://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}
        assert not re.search(r"(?i)<script[^>]+src|<link[^>]+href=\"(?!data:)|@import|url\(|innerHTML|eval\(", page)
        status, headers, body = server.ask("/metrics", method="HEAD")
        assert status == 200 and not body and int(headers["Content-Length"]) > 100
        assert server.ask("/nothing")[0] == 404
        assert server.ask("/../etc/passwd")[0] == 404
        status, headers, _ = server.ask("/metrics", method="POST")
        assert status == 405 and headers["Allow"] == "GET, HEAD"
        # A page of somebody else's that names this server by a name of its own.
        assert server.ask("/metrics", Host="evil.example")[0] == 403
        for host in ("localhost", "localhost:9480", "127.0.0.1:1", "[::1]:9480"):
            assert server.ask("/metrics", Host=host)[0] == 200, host
        for junk in (b"\x00" * 100 + b"\r\n\r\n", b"GET / HTTP/9\r\n\r\n",
                     b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.settimeout(1)  # a request that does not end is waited for
                try:
                    connection.sendall(junk)
                    connection.recv(100)
                except OSError:
                    pass
        assert server.ask("/healthz")[0] == 200
        # Taken: a second one says so.
        err = busctl("metrics", "--bus", bus.directory, "--listen", f"127.0.0.1:{server.port}", status=1)[1]
        assert f"127.0.0.1:{server.port}: another program listens there; choose another --listen" in err, err
        server.stop()


def it_listens_here_unless_told_otherwise():
    def listening(process):
        """Addresses of the sockets that the process listens on, in hexadecimal."""
        inodes = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")}
        found = []
        for table in ("tcp", "tcp6"):
            if os.path.exists("/proc/net/" + table):
                with open("/proc/net/" + table) as file:
                    found += [line.split()[1].split(":")[0] for line in file
                              if " 0A " in line and f"socket:[{line.split()[9]}]" in inodes]
        return found
    cases = [("0", "0100007F", False), ("localhost:0", "0100007F", False), ("0.0.0.0:0", "00000000", True)]
    if os.path.exists("/proc/net/if_inet6"):
        cases.append(("[::1]:0", "00000000000000000000000001000000", False))
    with Bus() as bus:
        for listen, address, warns in cases:
            process = bus.start(BUSCTL, "metrics", "--bus", bus.directory, "--listen", listen, stderr=subprocess.PIPE)
            process.stdout.readline()
            assert listening(process) == [address], (listen, listening(process))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0
            assert ("there is no password" in err) == warns, err
        assert "default 127.0.0.1:9480" in busctl("metrics", "--help")[0]
        for listen in (":9480", "*:9480", "host.example:80"):
            err = busctl("metrics", "--listen", listen, status=2)[1]
            assert "0.0.0.0:9480 for everybody who can reach it" in err, err


def connections_are_bounded():
    with Bus() as bus, Server(bus) as server:
        def descriptors():
            return len(os.listdir(f"/proc/{server.process.pid}/fd"))
        before = descriptors()
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        until("some are taken", lambda: descriptors() >= before + 30)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert descriptors() <= before + 33, descriptors()
        for connection in idle:
            connection.close()
        until("it answers again", lambda: server.ask("/healthz")[0] == 200)
        # One that says nothing does not keep it from ending.
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
            server.stop()


def it_outlives_the_bus():
    with Bus() as bus, Server(bus) as server:
        assert server.series()["signalbus_up", ()] == 1
        busctl("destroy", "--bus", bus.directory)
        until("it says so", lambda: server.ask("/healthz")[0] == 503)
        assert "no bus there" in server.ask("/healthz")[2]
        series = server.series()
        assert series["signalbus_up", ()] == 0 and len(series) == 2
        status, _, body = server.ask("/api/snapshot.json")
        assert status == 503 and "no bus there" in json.loads(body)["error"]
        busctl("create", "--bus", bus.directory)
        until("it is back", lambda: server.ask("/healthz")[::2] == (200, "ok: 0 members, 0 alive\n"))
        feed = bus.start("bus-feed", "--bus", bus.directory, "--policy", "overwrite")
        until("a member", lambda: ("signalbus_member_up", (("member", "feed"),)) in server.series())
        feed.kill()
        finish(feed, -signal.SIGKILL)
        until("it is dead", lambda: value(server.series(), "signalbus_member_status", member="feed", status="dead"))
        # Cut under its eyes.
        os.truncate(os.path.join(bus.directory, "feed"), 5000)
        until("no member any more", lambda: server.series()["signalbus_foreign_files", ()] == 1)
        server.stop()
        assert [line.split(": ", 1)[1] for line in server.log().splitlines()] == [
            f"{bus.directory}: no bus there; create it with: signal-busctl create --bus {bus.directory}",
            f"{bus.directory}: can be read again"], server.log()


def it_never_writes_to_the_bus():
    with Chain() as bus, Server(bus) as server:
        until("all are read", lambda: "4 members" in server.ask("/healthz")[2])
        with open(f"/proc/{server.process.pid}/maps") as file:
            mappings = [line.split() for line in file if bus.directory in line]
        assert len({mapping[5] for mapping in mappings}) == 4, mappings
        assert all(mapping[1][:3] == "r--" for mapping in mappings), mappings
        server.stop()
        bus.stop()


def scribbled_figures_are_shown_as_figures():
    """Whoever owns a file may write any bytes where its figures are."""
    with Chain() as bus:
        until("signals", lambda: test_busctl.counter_of(bus.directory, "trader", "signals"))
        bus.stop()
        chance = random.Random(6)
        for _ in range(6):
            for name in os.listdir(bus.directory):
                with open(os.path.join(bus.directory, name), "r+b") as file:
                    size = os.fstat(file.fileno()).st_size
                    file.seek(120)
                    directory = 512 + 128 * int.from_bytes(file.read(4), "little")
                    # The live line of the header, then what lies behind the directory.
                    for at, end in ((256, 512), ((directory + 4095) // 4096 * 4096, min(size, 262144))):
                        file.seek(at)
                        fill = chance.choice((b"\0", b"\xff", b"\x7f", None))
                        file.write((fill or b"") * (end - at) or chance.randbytes(end - at))
            with Server(bus) as server:
                until("a look", lambda: "signalbus_member_up" in server.ask("/metrics")[2])
                assert len(server.series()) > 300
                view = json.loads(server.ask("/api/snapshot.json")[2])
                assert len(view["members"]) == 4
                server.stop()
            out = busctl("top", "--once", "--interval-ms", "10", "--bus", bus.directory)[0]
            assert "feed/features" in out and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out), out


# ---- bridges to language models ----

def write_bridge(bus):
    """A configuration whose server nobody is: [class fast] to [backend mac]."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return bus.write("bridge.ini", f"[bridge]\nclients = trader\n[backend mac]\nurl = http://127.0.0.1:{port}\n"
                                   "flavor = mlx\n[class fast]\n")


def start_bridge(bus, server):
    """Beside the members of a chain."""
    bus.start("bus-bridge", "--bus", bus.directory, "--config", write_bridge(bus), stdout=subprocess.DEVNULL)
    until("the bridge's figures", lambda: any(key[0] == "signalbus_llm_server_breaker" for key in server.series()))


def servers_and_classes_are_seen():
    with Bus() as bus, Server(bus) as server:
        bus.up(f"[bridge]\ncommand = bus-bridge --bus %{{bus}} --name %{{name}} --config {write_bridge(bus)}\n")
        of_server, of_class = (("member", "bridge"), ("server", "mac")), (("class", "fast"), ("member", "bridge"))
        series = until("a bridge", lambda: (lambda series: series if (
            "signalbus_llm_server_breaker", of_server) in series else None)(server.series()))
        assert ("signalbus_llm_class_waiting_requests", of_class) in series
        assert ("signalbus_llm_server_attempts_total", (("member", "bridge"), ("outcome", "failed"),
                                                        ("server", "mac"))) in series
        assert ("signalbus_member_level", (("member", "bridge"), ("name", "mac.in_flight"),
                                           ("unit", "requests"))) in series
        view = json.loads(server.ask("/api/snapshot.json")[2])
        assert view["servers"][0]["name"] == "mac" and view["servers"][0]["in_flight"] == 0, view["servers"]
        assert view["classes"][0]["name"] == "fast" and view["classes"][0]["waiting"] == 0, view["classes"]
        shown = busctl("top", "--once", "--interval-ms", "10", "--bus", bus.directory)[0]
        assert re.search(r"^bridge/mac +(closed|open|canary) +0 ", shown, re.M), shown
        assert re.search(r"^bridge/fast +0 ", shown, re.M), shown
        told = busctl("info", "bridge", "--bus", bus.directory)[0]
        assert "replies.trader" in told and "llm.requests of trader" in told, told
        server.stop()
        busctl("down", "--bus", bus.directory)


# ---- the Grafana dashboard ----

def the_dashboard_asks_for_what_is_there():
    with open(os.path.join(SOURCE, "tools", "grafana", "signal-bus.json")) as file:
        dashboard = json.load(file)
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"]
                if isinstance(variable["query"], dict)]
    legends = [(target["expr"], target["legendFormat"]) for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 15
    with Chain() as bus, Server(bus) as server:
        until("signals", lambda: test_busctl.counter_of(bus.directory, "trader", "signals"))
        start_bridge(bus, server)
        labels = {}
        for name, pairs in until("lags and ages", lambda: (lambda series: series if any(
                key[0] == "signalbus_ring_newest_age_seconds" for key in series) else None)(server.series())):
            labels.setdefault(name, set()).update({"job", "instance"}, dict(pairs))
        used = set()
        for query in queries:
            names = re.findall(r"signalbus_\w+", query)
            assert names, query
            used.update(names)
            for name in names:
                assert name in labels, f"{name} of {query} does not exist"
            for name, selector in re.findall(r"(signalbus_\w+)\{([^}]*)\}", query):
                for label in re.findall(r"(\w+)\s*=~?", selector):
                    assert label in labels[name], f"{name} has no label {label}: {query}"
            by = re.search(r"by \(([^)]*)\)", query)
            assert not by or set(by.group(1).split(", ")) <= labels[names[0]], query
        for query, legend in legends:
            name = re.search(r"signalbus_\w+", query).group(0)
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels[name], (query, legend)
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                if shutil.which("promtool"):
                    rules = bus.write("rules.yml", json.dumps({"groups": [{"name": "g", "rules": [
                        {"record": "x", "expr": target["expr"].replace("$__rate_interval", "1m")}]}]}))
                    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True)
                    assert done.returncode == 0, (target["expr"], done.stdout, done.stderr)
        assert {"signalbus_ring_dropped_records_total", "signalbus_member_up", "signalbus_latency_seconds_bucket",
                "signalbus_ring_lag_records"} <= used
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        server.stop()
        bus.stop()


def a_real_prometheus_answers_the_dashboard():
    if not shutil.which("prometheus"):
        raise Skip("no prometheus (Debian's package prometheus)")
    with open(os.path.join(SOURCE, "tools", "grafana", "signal-bus.json")) as file:
        dashboard = json.load(file)
    with Chain() as bus, Server(bus) as server:
        until("signals", lambda: test_busctl.counter_of(bus.directory, "trader", "signals"))
        start_bridge(bus, server)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = bus.write("prometheus.yml", json.dumps({"scrape_configs": [
            {"job_name": "signal-bus", "scrape_interval": "1s", "static_configs": [
                {"targets": [f"127.0.0.1:{server.port}"]}]}]}))
        prometheus = bus.start("prometheus", f"--config.file={config}", f"--storage.tsdb.path={bus.root}/tsdb",
                               f"--web.listen-address=127.0.0.1:{port}", stdout=subprocess.DEVNULL)

        def query(expression):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
                connection.request("GET", "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
                answer = json.loads(connection.getresponse().read())
                connection.close()
            except (OSError, ValueError):
                return None  # it starts
            assert answer["status"] == "success", (expression, answer)
            return answer["data"]["result"]
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = re.sub(r"\$__rate_interval", "20s", target["expr"])
                expression = expression.replace("$job", ".*").replace("$member", ".*")
                result = until(expression, lambda: query(expression))
                assert all(series["value"][1] not in ("NaN", "+Inf") or "histogram_quantile" in expression
                           for series in result), (expression, result)
        assert query("up")[0]["value"][1] == "1"
        prometheus.terminate()
        prometheus.wait(timeout=WAIT_S)
        server.stop()
        bus.stop()


# ---- the page, in a browser ----

class Browser:
    def __enter__(self):
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not chromium or not driver:
            raise Skip("no chromium or no chromedriver (Debian's packages chromium, chromium-driver)")
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,1500",
                         *(["--no-sandbox"] if os.geteuid() == 0 else [])):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        return self

    def __exit__(self, *_):
        self.driver.quit()

    def open(self, server):
        self.driver.get(f"http://127.0.0.1:{server.port}/")

    def text(self, selector):
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent).join('\\n')", selector)

    def rows(self, table):
        """{first cell: the other cells} of a table."""
        return {cells[0]: cells[1:] for cells in self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map("
            "(row) => [...row.cells].map((cell) => cell.textContent.trim()))", "#" + table)}

    def picture(self, name):
        directory = os.environ.get("BUS_TEST_SCREENSHOTS")
        if directory:
            self.driver.save_screenshot(os.path.join(directory, name + ".png"))

    def mistakes(self):
        """What the page's script or its policy complained about; not that the server is away."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if "ERR_CONNECTION" not in entry["message"] and "ERR_EMPTY" not in entry["message"]
                and "503" not in entry["message"]]


SLOW = test_busctl.CHAIN.replace("restart_backoff_ms = 20",
                                 "restart_backoff_ms = 3600000\nrestart_backoff_ms_max = 3600000")


def the_page_shows_a_bus_at_work():
    with Chain() as bus, Server(bus) as server, Browser() as browser:
        browser.open(server)
        until("members", lambda: set(browser.rows("members")) == {"busctl", "feed", "infer", "trader"})
        until("all alive", lambda: browser.text("#health") == "4 of 4 alive")
        assert browser.text("#directory") == bus.directory
        until("rates", lambda: int(browser.rows("rings").get("feed/features", ["", "0"])[1].replace(",", "")) > 0)
        assert set(browser.rows("rings")) == {"feed/features", "infer/signals"}
        # Figures change.
        until("counters", lambda: "trader/signals" in browser.rows("counters"))

        def signals():
            return int(browser.rows("counters").get("trader/signals", ["0"])[0].replace(",", ""))
        first = signals()
        until("they rise", lambda: signals() > first)
        # Charts have a line for each, which grows.
        def points(chart):
            return browser.driver.execute_script(
                "return [...document.querySelectorAll(arguments[0] + ' path.series')].map("
                "(path) => path.getAttribute('d').split(/[ML]/).length - 1)", f"#{chart}")
        until("lines", lambda: len(points("rate")) == 2 and min(points("rate")) >= 3)
        until("latencies", lambda: len(points("latency")) == 7 and max(points("latency")) >= 3)
        assert browser.driver.find_element("css selector", "#rate > svg").get_attribute("aria-label").startswith(
            "feed/features ")
        before = browser.text("#latency .legend")
        browser.driver.find_element("css selector", "#quantile option[value=maximum]").click()
        until("the chart follows the choice", lambda: browser.text("#latency .legend") != before)
        # Pause holds the page, not the bus.
        browser.driver.find_element("id", "pause").click()
        assert browser.driver.find_element("id", "pause").get_attribute("aria-pressed") == "true"
        held = browser.text("main")
        time.sleep(2.5)
        assert browser.text("main") == held
        browser.driver.find_element("id", "pause").click()
        until("it goes on", lambda: browser.text("main") != held)
        assert browser.text("#alerts") == "" or "stalled" in browser.text("#alerts")
        browser.picture("light")
        for width in (400, 1400):  # nothing stands out of a narrow window
            browser.driver.set_window_size(width, 1500)
            until("it fits", lambda: browser.driver.execute_script(
                "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"))
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark"}]})
        assert browser.driver.execute_script(
            "return getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"
        time.sleep(1.2)
        browser.picture("dark")
        assert not browser.mistakes()
        server.stop()
        bus.stop()


def the_page_survives_its_server_and_shows_the_dead():
    with Bus(make=False) as bus:
        supervisor = bus.up(SLOW)
        with Browser() as browser:
            server = Server(bus)
            browser.open(server)
            until("alive", lambda: browser.text("#health") == "4 of 4 alive")
            server.stop()
            until("it says so", lambda: "does not answer" in browser.text("#alerts"))
            assert browser.text("#health") == "no figures" and "feed" in browser.rows("members")
            server = Server(bus, port=server.port)
            until("back", lambda: browser.text("#health") == "4 of 4 alive" and "answer" not in browser.text("#alerts"))
            os.kill(bus.info()["infer"]["pid"], signal.SIGKILL)
            until("infer is dead", lambda: browser.rows("members")["infer"][1] == "dead")
            assert "infer is dead" in browser.text("#alerts")
            until("counted", lambda: browser.text("#health") == "3 of 4 alive")
            until("the ring is full", lambda: "feed/features is 100 % full: infer does not keep up" in
                  browser.text("#alerts"))
            browser.picture("dead")
            supervisor.send_signal(signal.SIGINT)
            finish(supervisor, 1)
            busctl("destroy", "--bus", bus.directory)
            until("no bus", lambda: "no bus there" in browser.text("#alerts"))
            assert not browser.mistakes()
            server.stop()


def the_page_takes_names_as_text():
    """A file that is no member's, with a name that would be markup."""
    with Bus() as bus, Server(bus) as server, Browser() as browser:
        name = "<img src=x onerror=\"document.title='owned'\">"
        with open(os.path.join(bus.directory, name), "w") as file:
            file.write("x")
        browser.open(server)
        until("its name as it is", lambda: name in browser.rows("members"))
        assert browser.rows("members")[name][0] == "not a member"
        assert not browser.driver.find_elements("css selector", "img") and "owned" not in browser.driver.title
        assert not browser.mistakes()
        server.stop()


def drops_raise_an_alarm_on_the_page():
    with Bus() as bus, Server(bus) as server, Browser() as browser:
        # Nobody reads: the ring fills and refuses what comes.
        bus.start("bus-feed", "--bus", bus.directory, "--policy", "drop-newest", "--ring-depth", "64", "--speed", "20",
                  stdout=subprocess.DEVNULL)
        browser.open(server)
        until("an alarm", lambda: re.search(r"feed/features drops [\d,]+ records/s: the ring is full",
                                            browser.text("#alerts")))
        assert browser.driver.find_elements("css selector", "#rings td.alarm")
        browser.picture("drops")
        assert not browser.mistakes()
        server.stop()


def the_page_shows_servers_and_classes():
    with Bus() as bus, Server(bus) as server, Browser() as browser:
        browser.open(server)
        until("an empty bus", lambda: "no member yet" in browser.text("#members"))
        assert not browser.driver.find_element("css selector", "#servers").is_displayed()
        start_bridge(bus, server)
        until("a server", lambda: "bridge/mac" in browser.rows("servers"))
        until("a class", lambda: "bridge/fast" in browser.rows("classes"))
        assert browser.driver.find_element("css selector", "#servers").is_displayed()
        assert not browser.mistakes()
        server.stop()


TESTS = [
    the_text_is_what_info_says, promtool_has_nothing_to_say, figures_move_and_the_snapshot_is_that_of_top,
    it_answers_what_it_has_and_refuses_the_rest, it_listens_here_unless_told_otherwise, connections_are_bounded,
    it_outlives_the_bus, it_never_writes_to_the_bus, scribbled_figures_are_shown_as_figures,
    servers_and_classes_are_seen, the_dashboard_asks_for_what_is_there, a_real_prometheus_answers_the_dashboard, the_page_shows_a_bus_at_work,
    the_page_survives_its_server_and_shows_the_dead, the_page_takes_names_as_text, drops_raise_an_alarm_on_the_page,
    the_page_shows_servers_and_classes]

if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
