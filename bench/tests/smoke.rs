//! Every scenario runs with tiny parameters and says what it should. Nothing here looks at how fast anything was.

use std::io::Write;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roam-bench")).args(arguments).output().expect("the benchmark starts")
}

/// The JSON lines of a run of one round; `None` and a word on standard error where this machine cannot have namespaces.
fn run(name: &str, settings: &[&str]) -> Option<Vec<Value>> {
    let mut arguments = vec!["run", name, "--repeat", "1", "--json", "--seed", "5"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = bench(&arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("cannot measure here") {
        // Not by `eprintln`, which the test harness swallows.
        let _ = writeln!(std::io::stderr(), "skipped: {name}: {said}");
        return None;
    }
    assert!(output.status.success(), "{name}: {said}");
    let lines = String::from_utf8(output.stdout).expect("text");
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for record in &records {
        let mut keys: Vec<&String> = record.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, ["engine", "environment", "params", "results", "scenario"]);
        assert_eq!(record["scenario"], name);
        for key in ["commit", "kernel", "cores", "cpu", "seed", "date", "repeats", "repeat"] {
            assert!(record["environment"].get(key).is_some(), "{record}");
        }
        assert_eq!(record["environment"]["seed"], 5);
    }
    Some(records)
}

/// The results of that engine, in round 1 or (`None`) over all rounds; each of `keys` is a number.
fn results<'a>(records: &'a [Value], engine: &str, round: Option<u32>, keys: &[&str]) -> &'a Value {
    let wanted =
        |record: &&Value| record["engine"] == engine && record["environment"]["repeat"] == serde_json::json!(round);
    let mut found = records.iter().filter(wanted);
    let record = found.next().unwrap_or_else(|| panic!("no {engine}, round {round:?}"));
    assert!(found.next().is_none(), "{engine}, round {round:?} twice");
    for key in keys {
        assert!(record["results"][key].is_number(), "{engine} has no {key}: {record}");
    }
    &record["results"]
}

#[test]
fn datapath_udp() {
    let Some(records) = run("datapath-udp", &["seconds=0.2", "warmup_seconds=0.05", "window=8"]) else { return };
    assert_eq!(records.len(), 6);
    for engine in ["guest", "native", "kernel"] {
        for round in [Some(1), None] {
            let keys = [
                "sent",
                "received",
                "lost",
                "duplicated",
                "corrupted",
                "resets",
                "rtt_us_p50",
                "rtt_us_p99",
                "rtt_us_p999",
                "rtt_us_max",
                "silence_us_max",
                "packets_per_s",
                "bits_per_s",
                "ratio_to_kernel",
                "ratio_to_native",
                "cpu_us_per_packet",
            ];
            let results = results(&records, engine, round, &keys);
            assert!(results["received"].as_u64().unwrap() > 0, "{engine} answered nothing: {results}");
            assert_eq!((results["corrupted"].as_u64(), results["resets"].as_u64()), (Some(0), Some(0)), "{engine}");
        }
    }
    let kernel = results(&records, "kernel", None, &["packets_per_s_min", "packets_per_s_max"]);
    assert_eq!(kernel["ratio_to_kernel"], 1.0);
    assert_eq!(records[0]["params"]["window"], 8);
}

#[test]
fn datapath_udp_at_a_rate_over_ipv6() {
    let settings = ["seconds=0.2", "warmup_seconds=0", "rate=500", "ip=6", "engines=guest", "busy_poll_us=50"];
    let Some(records) = run("datapath-udp", &settings) else { return };
    assert_eq!(records.len(), 2);
    let results = results(&records, "guest", Some(1), &["sent", "received"]);
    assert_eq!(results["sent"], 100);
    assert!(results.get("ratio_to_kernel").is_none(), "there is nobody to compare with");
}

#[test]
fn datapath_tcp() {
    for direction in ["direction=down", "direction=up"] {
        let settings = ["seconds=0.2", "warmup_seconds=0.05", direction];
        let Some(records) = run("datapath-tcp", &settings) else { return };
        for engine in ["guest", "native", "kernel"] {
            for round in [Some(1), None] {
                let keys = ["bits_per_s", "corrupted", "resets", "ratio_to_kernel", "ratio_to_native"];
                let results = results(&records, engine, round, &keys);
                assert!(results["bits_per_s"].as_f64().unwrap() > 0.0, "{engine} moved nothing: {results}");
                assert_eq!((results["corrupted"].as_u64(), results["resets"].as_u64()), (Some(0), Some(0)), "{engine}");
            }
        }
    }
}

#[test]
fn datapath_tcp_over_ipv6_on_several_connections() {
    let settings = ["seconds=0.2", "warmup_seconds=0.05", "ip=6", "mtu=9000", "connections=3", "engines=guest,native"];
    let Some(records) = run("datapath-tcp", &settings) else { return };
    let results = results(&records, "guest", None, &["bits_per_s", "ratio_to_native", "bits_per_s_min"]);
    assert!(results["bits_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn guest_start() {
    for (guest, ip) in [("guest=square", "ip=4"), ("guest=kv", "ip=6")] {
        let Some(records) = run("guest-start", &[guest, ip]) else { return };
        let steps = ["engine_us", "module_us", "netstack_us", "instance_us", "first_poll_us"];
        for way in ["cold", "cached"] {
            results(&records, way, Some(1), &["ready_us", "first_reply_us"]);
            results(&records, way, Some(1), &steps);
            results(&records, way, None, &["first_reply_us_p50", "first_reply_us_min", "first_reply_us_max"]);
        }
        results(&records, "cold", None, &["start_us_cold"]);
        results(&records, "cached", None, &["start_us_cached"]);
    }
}

#[test]
fn deploy() {
    for (guest, ip) in [("guest=echo", "ip=4"), ("guest=web", "ip=6")] {
        let Some(records) = run("deploy", &[guest, ip, "others=1"]) else { return };
        assert_eq!(records.len(), 2);
        results(&records, "deploy", Some(1), &["first_reply_us", "answered_us", "deleted_us"]);
        results(&records, "deploy", None, &["first_reply_us_p50", "first_reply_us_min", "first_reply_us_max"]);
    }
}

#[test]
fn a_jailed_guest_takes_part() {
    let settings = ["seconds=0.2", "warmup_seconds=0.05", "window=8", "engines=guest", "jail=on"];
    let Some(records) = run("datapath-udp", &settings) else { return };
    assert_eq!(records.len(), 4);
    let jailed = results(&records, "jailed", None, &["received", "ratio_to_guest", "cpu_us_per_packet"]);
    assert!(jailed["received"].as_u64().unwrap() > 0, "{jailed}");
    assert_eq!((jailed["corrupted"].as_u64(), jailed["resets"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn density() {
    let settings = ["guests=3", "settle_seconds=0.2", "idle_seconds=0.3", "seconds=0.3", "rate=300"];
    let Some(records) = run("density", &settings) else { return };
    let idle =
        results(&records, "idle", None, &["rss_kib_p50", "private_kib_p50", "cpu_us_per_s_each", "host_cpu_share"]);
    assert_eq!(idle["guests"], 3);
    let keys = ["sent", "received", "lost", "rtt_us_p50", "rtt_us_p99", "packets_per_s", "cpu_us_per_packet"];
    let loaded = results(&records, "loaded", None, &keys);
    assert_eq!(
        loaded["received"].as_u64().unwrap() + loaded["lost"].as_u64().unwrap(),
        loaded["sent"].as_u64().unwrap()
    );
    assert_eq!(loaded["answering"], 3);
}

#[test]
fn sdn_scale() {
    let Some(records) = run("sdn-scale", &["addresses=300", "hosts=3", "moves=50", "calls=5"]) else { return };
    for round in [Some(1), None] {
        for (engine, names) in [
            ("core", &["move", "orders", "claim"][..]),
            ("memory", &["decided", "answered"]),
            ("redb", &["decided", "answered"]),
        ] {
            for name in names {
                let keys = ["us_p50", "us_p99", "us_p999", "us_max", "count"].map(|key| format!("{name}_{key}"));
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                results(&records, engine, round, &keys);
            }
        }
    }
    assert_eq!(results(&records, "core", None, &[])["move_count"], 50);
}

/// A small guest moves once, and square beside it; nobody loses anything.
#[test]
fn migrate() {
    let settings = [
        "memory=4MiB",
        "dirty_pages_per_ms=1",
        "connections=3",
        "requests_per_s=500",
        "udp_per_s=200",
        "settle_seconds=0.3",
        "steady_seconds=0.5",
        "pause_ms=50",
    ];
    for further in [&["ip=4"][..], &["ip=6", "plan=stop_and_copy", "link=100Mbit"]] {
        let Some(records) = run("migrate", &[&settings, further].concat()) else { return };
        assert_eq!(records.len(), 4);
        for guest in ["kv", "square"] {
            let times = ["blackout", "scan", "send", "apply", "grant", "first_poll", "route", "total", "silence"];
            let times: Vec<String> = times.iter().map(|name| format!("{name}_us")).collect();
            let counts = ["rounds", "bytes_on_wire", "frames_carried", "frames_forwarded", "steady_packets_per_s"];
            let one: Vec<&str> = times.iter().map(String::as_str).chain(counts).collect();
            results(&records, guest, Some(1), &one);
            let all: Vec<String> =
                times.iter().flat_map(|name| ["p50", "p99", "max"].map(|of| format!("{name}_{of}"))).collect();
            let counted =
                ["sent", "received", "reordered", "rtt_us_p99", "rounds_p50", "bytes_on_wire_max", "blackout_count"];
            let all: Vec<&str> = all.iter().map(String::as_str).chain(counted).collect();
            let results = results(&records, guest, None, &all);
            assert_eq!((&results["migrations"], &results["migrations_failed"]), (&1.into(), &0.into()), "{results}");
            for none in ["lost", "duplicated", "corrupted", "resets"] {
                assert_eq!(results[none], 0, "{guest}: {results}");
            }
        }
    }
}

/// A few switches under a little load: nobody answers whom they should not.
fn switch(name: &str, engine: &str) {
    let settings = ["switches=20", "rate=1000", "applies=20", "pause_ms=20"];
    let Some(records) = run(name, &settings) else { return };
    let keys = [
        "sent",
        "received",
        "lost",
        "duplicated",
        "late_sends",
        "socket_drops",
        "stale_replies",
        "stale_us_max",
        "stale_replies_plane",
        "stale_plane_us_max",
        "troubles",
        "apply_us_p50",
        "plane_us_p99",
        "durable_us_max",
        "rtt_us_p50",
        "rtt_us_p999",
    ];
    let results = results(&records, engine, None, &keys);
    assert_eq!(results["switches"], 20);
    assert!(results["received"].as_u64().is_some_and(|received| received > 0), "nothing was answered: {results}");
    for none in ["duplicated", "stale_replies", "troubles"] {
        assert_eq!(results[none], 0, "{results}");
    }
}

#[test]
fn switch_kernel() {
    switch("switch-kernel", "kernel");
}

#[test]
fn switch_ovs() {
    switch("switch-ovs", "ovs");
}

#[test]
fn people_get_a_list_and_a_table() {
    let listed = String::from_utf8(bench(&["list"]).stdout).unwrap();
    for text in [
        "datapath-udp: ",
        "datapath-tcp: ",
        "guest-start: ",
        "deploy: ",
        "density: ",
        "sdn-scale: ",
        "switch-ovs: ",
        "migrate: ",
    ] {
        assert!(listed.contains(text), "{listed}");
    }
    let settings = ["--set", "seconds=0.1", "--set", "warmup_seconds=0", "--set", "engines=kernel"];
    let output = bench(&[&["run", "datapath-udp", "--repeat", "1"], &settings[..]].concat());
    if String::from_utf8_lossy(&output.stderr).contains("cannot measure here") {
        return;
    }
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("k packets/s") && table.contains("\nkernel "), "{table}");
}

#[test]
fn what_there_is_not_is_a_usage_error_that_says_what_there_is() {
    for (arguments, text) in [
        (&["run", "nothing"][..], "datapath-udp, datapath-tcp, guest-start, deploy, density"),
        (&["run", "density", "--set", "speed=1"], "guests, settle_seconds"),
        (&["run", "datapath-udp", "--set", "payload=1"], "16 to 65507"),
    ] {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(text), "{said}");
    }
}
