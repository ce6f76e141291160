//! A large service file, read and compared: 10,000 services with 10 servers each.

use std::{fmt::Write, hint::black_box, net::Ipv4Addr, time::Duration};

use criterion::Criterion;
use shunt_config::{Change, Config};

const SERVICES: u32 = 10_000;
const SERVERS: u32 = 10;
/// Services of one VIP.
const PORTS: u32 = 4;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .measurement_time(Duration::from_secs(10))
        .configure_from_args();
    let right = file("10.0.0.1/8");
    let config = parse(&right);
    criterion.bench_function("large_file/parse", |bencher| bencher.iter(|| parse(&right)));
    let network = config.network();
    criterion.bench_function("large_file/check", |bencher| {
        bencher.iter(|| config.rules.check(&network).expect("right rules"));
    });
    let other = parse(&right.replace("weight = 3", "weight = 4"));
    criterion.bench_function("large_file/change", |bencher| {
        bencher.iter(|| Change::between(&config, &other).to_string());
    });
    // No server is inside.
    let wrong = file("172.16.0.1/12");
    criterion.bench_function("large_file/refuse", |bencher| {
        bencher.iter(|| black_box(Config::parse("large.toml", &wrong)).expect_err("unreachable"));
    });
    criterion.final_summary();
}

fn parse(text: &str) -> Config {
    Config::parse("large.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn file(inside: &str) -> String {
    let mut text = format!(
        r#"
[[port]]
name = "outside"
role = "outside"
device = "net_null0"
addresses = ["198.18.0.1/15"]

[[port]]
name = "inside"
role = "inside"
device = "net_null1"
addresses = ["{inside}"]
"#
    );
    for service in 0..SERVICES {
        let vip = Ipv4Addr::from(0xc613_0000 + service / PORTS + 1);
        let vport = 80 + service % PORTS;
        writeln!(text, "\n[[service]]\nvip = \"{vip}:{vport}\"\nscheduler = \"wlc\"").unwrap();
        for server in 0..SERVERS {
            let rip = Ipv4Addr::from(0x0a01_0000 + service * SERVERS + server);
            let weight = server + 1;
            writeln!(text, "\n[[service.server]]\naddress = \"{rip}:8080\"\nweight = {weight}")
                .unwrap();
        }
    }
    text
}
