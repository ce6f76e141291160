//! Three hosts in network namespaces: the client, the director and the server.

use std::{
    env, fmt, fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;

use crate::{client, server, shunt};

/// What the client dials.
pub(crate) const VIP: &str = "192.168.1.100";

/// The namespaces and what joins them. The director's sides are `outside0` and `inside0`.
const NETWORK: &str = "
    mount -t tmpfs none /run/netns 2>/dev/null || { mkdir -p /run/netns; mount -t tmpfs none /run/netns; }
    for host in client director server; do
        ip netns add $host
        ip -n $host link set lo up
    done
    ip link add outside0 netns director type veth peer name client0 netns client
    ip link add inside0 netns director type veth peer name server0 netns server
    ip -n client addr add 192.168.1.200/24 dev client0
    ip -n server addr add 192.168.2.210/24 dev server0
    for pair in client:client0 director:outside0 director:inside0 server:server0; do
        ip -n ${pair%:*} link set ${pair#*:} up
        ip netns exec ${pair%:*} ethtool -K ${pair#*:} tx off gro off >/dev/null
    done
    ip -n server route add default via 192.168.2.200
";

/// What makes Linux the director, and back.
const KERNEL: &str = "
    ip -n director addr add 192.168.1.100/24 dev outside0
    ip -n director addr add 192.168.2.200/24 dev inside0
    ip netns exec director sysctl -qw net.ipv4.ip_forward=1
    ip netns exec director nft 'table ip nat { chain in { type nat hook prerouting priority dstnat;
        ip daddr 192.168.1.100 tcp dport 8080 dnat to 192.168.2.210:8080; }; }'
";
const NO_KERNEL: &str = "
    ip netns exec director nft flush ruleset
    ip netns exec director sysctl -qw net.ipv4.ip_forward=0
    ip -n director addr flush dev outside0
    ip -n director addr flush dev inside0
";

/// Who balances the load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Director {
    Kernel,
    Spin,
    Adaptive,
}

impl fmt::Display for Director {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Director::Kernel => "Linux",
            Director::Spin => "spin",
            Director::Adaptive => "adaptive",
        })
    }
}

/// The hosts, with a server that runs. All ends with the namespace of processes that this is in.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
    _server: Child,
}

/// A director that runs.
pub(crate) enum Running {
    Kernel,
    Shunt(Child),
}

impl Lab {
    pub(crate) fn set_up() -> anyhow::Result<Lab> {
        shell(NETWORK)?;
        let mut server = on_host("server")?.arg("serve").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let output = server.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "listening\n", "the server did not start");
        Ok(Lab { directory: tempfile::tempdir()?, _server: server })
    }

    /// Starts a director, and waits until it forwards.
    pub(crate) fn start(&self, director: Director) -> anyhow::Result<Running> {
        let idle = match director {
            Director::Kernel => {
                shell(KERNEL)?;
                return Ok(Running::Kernel);
            }
            Director::Spin => "spin",
            Director::Adaptive => "adaptive",
        };
        let file = self.directory.path().join("pacing.toml");
        fs::write(&file, service_file(idle))?;
        let mut shunt_in_netns = Command::new("ip");
        shunt_in_netns.args(["netns", "exec", "director"]).arg(shunt());
        shunt_in_netns.args(["run", "--config"]).arg(&file);
        let mut child = shunt_in_netns.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?);
        let mut said = String::new();
        while !said.contains("director ready") {
            ensure!(log.read_line(&mut said)? > 0, "the director did not start:\n{said}");
        }
        // What it says later is of no interest, but must go somewhere.
        std::thread::spawn(move || log.read_to_string(&mut String::new()));
        // It has looked its neighbours up by then.
        sleep(Duration::from_secs(1));
        Ok(Running::Shunt(child))
    }

    /// Has the client ask so many times a second.
    pub(crate) fn ask(&self, rate: u32) -> anyhow::Result<Histogram<u64>> {
        let output = on_host("client")?.args(["ask", &rate.to_string()]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        client::read(&String::from_utf8(output.stdout)?)
    }
}

impl Running {
    /// The share of a CPU that the director takes.
    pub(crate) fn cpu_share(&self, length: Duration) -> anyhow::Result<f64> {
        let (before, start) = (self.cpu_time()?, Instant::now());
        sleep(length);
        Ok((self.cpu_time()? - before).as_secs_f64() / start.elapsed().as_secs_f64())
    }

    fn cpu_time(&self) -> anyhow::Result<Duration> {
        let Running::Shunt(child) = self else { bail!("Linux accounts for no director") };
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", child.id()))? {
            let statistics = fs::read_to_string(task?.path().join("schedstat"))?;
            let time = statistics.split_whitespace().next().context("no time")?;
            nanos += time.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    pub(crate) fn stop(self) -> anyhow::Result<()> {
        match self {
            Running::Kernel => shell(NO_KERNEL),
            Running::Shunt(mut child) => {
                shell(&format!("kill -TERM {}", child.id()))?;
                let status = child.wait()?;
                ensure!(status.success(), "the director ended with {status}");
                Ok(())
            }
        }
    }
}

/// This program on one of the hosts, on the first CPU: the second is the worker's.
fn on_host(name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name, "taskset", "-c", "0"]).arg(env::current_exe()?);
    Ok(command)
}

fn shell(commands: &str) -> anyhow::Result<()> {
    let status = Command::new("sh").args(["-euc", commands]).status()?;
    ensure!(status.success(), "{commands}: {status}");
    Ok(())
}

fn service_file(idle: &str) -> String {
    let port = server::PORT;
    format!(
        r#"
        [dpdk]
        main-lcore = 0
        worker-lcores = [1]
        idle = "{idle}"
        memory = "64M"
        no-huge = true
        mbufs = 8192

        [[port]]
        name = "outside"
        role = "outside"
        device = "net_af_packet0,iface=outside0"
        addresses = ["{VIP}/24"]

        [[port]]
        name = "inside"
        role = "inside"
        device = "net_af_packet1,iface=inside0"
        addresses = ["192.168.2.200/24"]

        [nat]
        connections = 65536

        [[service]]
        vip = "{VIP}:{port}"
        scheduler = "rr"
        server = [{{ address = "192.168.2.210:{port}" }}]
        "#
    )
}
