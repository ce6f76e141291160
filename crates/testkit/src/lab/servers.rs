//! What runs on the lab's hosts: an nginx on each, a DNS and an echo server on the real servers.

use std::{fs, process::Stdio};

use super::{Host, Lab, Process};

impl Lab {
    /// Starts the servers of those hosts, all at once, and waits until each has its port.
    pub(super) fn servers_up(&self, hosts: &[Host]) -> Vec<(Host, Process)> {
        let mut servers = Vec::new();
        for &host in hosts {
            servers.push((host, self.nginx(host), "tcp", 80));
            if matches!(host, Host::Rs1 | Host::Rs2) {
                servers.push((host, self.dnsmasq(host), "udp", 53));
                servers.push((host, self.echo(host), "udp", 7));
            }
        }
        let wait = |(host, process, table, port): (Host, Process, &str, u16)| {
            process.wait_for_port(table, port);
            (host, process)
        };
        servers.into_iter().map(wait).collect()
    }

    /// It answers its host's name at `/`, serves what is in the lab's directory at `/files/`, stores
    /// what is PUT below `/upload/`, and resets the connection at `/reset`. That of the client
    /// writes an access log. It is a single process, so that none is left when that is killed.
    fn nginx(&self, host: Host) -> Process {
        let (name, lab) = (host.name(), self.dir().display());
        let dir = self.dir().join(name);
        fs::create_dir_all(dir.join("upload")).expect("a directory for nginx");
        let access_log = match host {
            Host::Client => dir.join("access.log").display().to_string(),
            _ => "off".to_owned(),
        };
        let file = dir.join("nginx.conf");
        let dir = dir.display();
        let text = format!(
            "daemon off;
master_process off;
user root;
pid {dir}/nginx.pid;
events {{}}
http {{
    access_log {access_log};
    client_body_temp_path {dir}/body;
    client_max_body_size 0;
    server {{
        listen 80;
        default_type text/plain;
        location = / {{ return 200 \"{name}\\n\"; }}
        reset_timedout_connection on;
        location = /reset {{ return 444; }}
        location /files/ {{ alias {lab}/; }}
        location /upload/ {{ root {dir}; dav_methods PUT; }}
    }}
}}
"
        );
        fs::write(&file, text).expect("nginx's configuration");
        let (dir, error_log) = (dir.to_string(), format!("{dir}/error.log"));
        let file = file.to_str().expect("a path in UTF-8");
        let program = ["nginx", "-p", &dir, "-e", &error_log, "-c", file];
        self.start_quietly(host, &program, Stdio::null())
    }

    /// `whoami.lab` is its host's name (TXT) and address (A).
    fn dnsmasq(&self, host: Host) -> Process {
        let (name, address) = (host.name(), host.address());
        let program = [
            "dnsmasq",
            // It keeps its user id then, too: a change of that would have the kernel forget to kill it.
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--log-facility=-",
            &format!("--listen-address={address}"),
            &format!("--txt-record=whoami.lab,{name}"),
            &format!("--host-record=whoami.lab,{address}"),
        ];
        self.start_quietly(host, &program, Stdio::null())
    }

    /// Sends every datagram to UDP port 7 back (RFC 862).
    fn echo(&self, host: Host) -> Process {
        let program = ["socat", "-b", "65536", "UDP4-RECVFROM:7,fork", "PIPE"];
        self.start_quietly(host, &program, Stdio::null())
    }
}
