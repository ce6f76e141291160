# shellcheck shell=bash
# What runs on the lab's hosts: an nginx on each, a DNS and an echo server on the real
# servers.

BIG_MB=100

servers_up() {
    head -c "${BIG_MB}M" /dev/urandom >"$LAB/big"
    nginx_up rs1 off
    nginx_up rs2 off
    nginx_up client "$LAB/client/access.log"
    dnsmasq_up rs1
    dnsmasq_up rs2
    echo_up rs1
    echo_up rs2
}

# nginx_up HOST ACCESS_LOG: it answers its host's name at /, serves /big and /page, stores what is
# PUT below /upload/, and resets the connection at /reset.
nginx_up() {
    local host=$1 dir=$LAB/$1
    mkdir -p "$dir/upload"
    cat >"$dir/nginx.conf" <<EOF
daemon off;
user root;
worker_processes 1;
pid $dir/nginx.pid;
events {}
http {
    access_log $2;
    client_body_temp_path $dir/body;
    client_max_body_size 0;
    server {
        listen 80;
        default_type text/plain;
        location = / { return 200 "$host\n"; }
        reset_timedout_connection on;
        location = /big { alias $LAB/big; }
        location = /page { alias $LAB/page; }
        location = /reset { return 444; }
        location /upload/ { root $dir; dav_methods PUT; }
    }
}
EOF
    daemon "$host" "$dir/nginx.log" nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf"
    until_true 5 on "$host" curl --noproxy '*' -sf http://127.0.0.1/ ||
        die "nginx does not start on $host: $(cat "$dir/nginx.log" "$dir/error.log")"
}

# dnsmasq_up HOST: whoami.lab is its host's name (TXT) and address (A).
dnsmasq_up() {
    local host=$1 dir=$LAB/$1
    daemon "$host" "$dir/dnsmasq.log" dnsmasq --keep-in-foreground --conf-file=/dev/null \
        --no-resolv --no-hosts --user=root --pid-file="$dir/dnsmasq.pid" \
        --bind-interfaces --listen-address="${RIP[$host]}" --log-facility=- \
        --txt-record="whoami.lab,$host" --host-record="whoami.lab,${RIP[$host]}"
    until_true 5 on "$host" dig +short +tries=1 +time=1 "@${RIP[$host]}" whoami.lab ||
        die "dnsmasq does not start on $host: $(cat "$dir/dnsmasq.log")"
}

# echo_up HOST: sends every datagram to UDP port 7 back (RFC 862).
echo_up() {
    daemon "$1" "$LAB/$1/echo.log" socat -b 65536 UDP4-RECVFROM:7,fork PIPE
    until_true 5 udp_port_7_is_open "$1" || die "socat does not start on $1: $(cat "$LAB/$1/echo.log")"
}
udp_port_7_is_open() { [[ -n $(on "$1" ss -Hlnu 'sport = :7') ]]; }
