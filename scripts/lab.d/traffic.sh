# shellcheck shell=bash
# The traffic on which Shunt is compared with the kernel: the same programs with the same source
# ports and the same contents, whichever is the director. What passes the client, rs1 and rs2 is
# captured, into CAPTURES_DIR/TRAFFIC-HOST.pcap.
#
# Two more hosts turn the client and rs1 into routers with a narrow link each:
#
#     shunt-far   far0 ─── client ─── director ─── rs1 ─── deep0   shunt-deep
#     10.1.0.2        1300       1500         1500     1300        10.2.0.2

FAR=10.1.0.2
DEEP=10.2.0.2
LINK_MTU=1300   # towards far and deep
INSIDE_MTU=1400 # of the director's inside port, in the configuration `narrow`

# In this order. Each is a function below, and has the configuration `services` or its own.
TRAFFIC=(web upload reset dns fragments refusal traceroute ping snat hairpin path_mtu narrow_port)
declare -A TRAFFIC_CONFIGURATION=([narrow_port]=narrow)

traffic_web() {
    send client 0 curl -sS --max-time 5 --local-port 20001 "http://$VIP/"
    send client 0 curl -sS --max-time 5 --local-port 20002 "http://$VIP/"
    send client 0 curl -sS --max-time 5 --local-port 20003 "http://$VIP:8080/"
    send client 0 curl -sS --max-time 5 --local-port 20004 "http://${RIP[rs1]}/"
}

traffic_upload() {
    send client 0 curl -sS --max-time 5 --local-port 20011 --upload-file "$LAB/page" \
        "http://$VIP:8080/upload/page"
}

traffic_reset() {
    local curl_recv_error=56
    send client "$curl_recv_error" curl -sS --max-time 5 --local-port 20021 "http://$VIP:8080/reset"
    # A connection that stays open, until the client's kernel resets it.
    daemon client "$LAB/telnet.log" bash -c \
        "sleep 5 | curl -sS --max-time 5 --local-port 20022 telnet://$VIP:8080"
    until_true 5 connection_is_open || fault "no connection to reset"
    send client 0 ss --kill --numeric --no-header "sport = :20022"
    kill -- "-$DAEMON" 2>/dev/null || true
}
connection_is_open() { [[ -n $(on client ss -Hnt state established 'sport = :20022') ]]; }

traffic_dns() {
    send client 0 ask 20031 53 "$VIP"
    send client 0 ask 20032 53 "$VIP"
}

traffic_fragments() {
    send client 0 echo_datagram 20041
    send client 0 ping -n -c 2 -i 0.2 -W 2 -s 3000 -e 20042 "${RIP[rs1]}"
    send rs1 0 ping -n -c 2 -i 0.2 -W 2 -s 3000 -e 40041 "$CLIENT"
}

traffic_refusal() {
    local curl_no_connection=7 dig_no_answer=9 ping_no_answer=1
    send client "$curl_no_connection" curl -sS --max-time 5 --local-port 20051 "http://${RIP[rs1]}:9/"
    send client "$curl_no_connection" curl -sS --max-time 5 --local-port 20052 "http://$VIP:81/"
    send client "$curl_no_connection" curl -sS --max-time 5 --local-port 20053 "http://$VIP:9999/"
    send client "$dig_no_answer" ask 20054 9 "${RIP[rs1]}"
    send client "$dig_no_answer" ask 20055 81 "$VIP"
    send client "$dig_no_answer" ask 20056 9999 "$VIP"
    send client "$ping_no_answer" ping -n -c 1 -W 5 -e 20057 192.168.2.99
}

traffic_traceroute() {
    send client 0 traceroute_from 20061 "${RIP[rs1]}"
    send client 0 traceroute_from 20062 --udp --port=81 "$VIP"
    send client 0 traceroute_from 20063 --tcp --port=8080 "$VIP"
    send client 0 traceroute_from 20064 --tcp --port=82 "$VIP"
    send far 0 traceroute_from 20065 --tcp --port=82 "$VIP"
}

traffic_ping() {
    local ping=(ping -n -c 2 -i 0.2 -W 2)
    send client 0 "${ping[@]}" -e 20071 "$VIP"
    send client 0 "${ping[@]}" -e 20072 "$DIP"
    send client 0 "${ping[@]}" -e 20073 -Q 0x28 -M do "${RIP[rs1]}"
    send client 1 "${ping[@]}" -e 20074 -t 1 "${RIP[rs1]}"
    send rs1 0 "${ping[@]}" -e 40071 "$VIP"
    send rs1 0 "${ping[@]}" -e 40072 "$DIP"
}

traffic_snat() {
    local curl_no_connection=7 dig_no_answer=9
    send rs1 0 curl -sS --max-time 5 --local-port 40081 "http://$CLIENT/"
    send rs1 0 ping -n -c 2 -i 0.2 -W 2 -e 40082 "$CLIENT"
    send rs1 "$curl_no_connection" curl -sS --max-time 5 --local-port 40083 "http://$CLIENT:9/"
    send rs1 "$dig_no_answer" ask 40084 9 "$CLIENT"
    send rs1 0 traceroute_from 40085 "$FAR"
    send rs1 0 traceroute_from 40086 --tcp --port=80 "$CLIENT"
}

traffic_hairpin() {
    send rs1 0 curl -sS --max-time 5 --local-port 40091 "http://$VIP:8084/"
    send rs1 7 curl -sS --max-time 5 --local-port 40092 "http://$VIP:81/"
}

# Routers on either side say `fragmentation needed`.
traffic_path_mtu() {
    send far 0 curl -sS --max-time 5 --local-port 20101 -o /dev/null "http://$VIP:8080/page"
    send client 0 curl -sS --max-time 5 --local-port 20102 --upload-file "$LAB/page" \
        "http://$VIP:82/upload/page"
}

# The director says so itself, or cuts what it may.
traffic_narrow_port() {
    local ping_no_answer=1
    ip -n shunt-rs1 link set server0 mtu "$INSIDE_MTU"
    # A server that knows nothing of it: else its MSS would keep packets small.
    ip -n shunt-rs1 route replace default via "$DIP" advmss 1460
    # The client forgets what it knows of path MTUs, and learns it anew only after the first one:
    # else it would cut that itself.
    ip -n shunt-client route flush cache
    send client 0 send_uncut 20111 81 1450
    send client "$ping_no_answer" ping -n -c 1 -W 2 -e 20112 -M do -s 1450 "${RIP[rs1]}"
    send client 0 curl -sS --max-time 5 --local-port 20113 --upload-file "$LAB/page" \
        "http://$VIP:8080/upload/page"
}

# ---------------------------------------------------------------------------------------------
# Programs

# ask SOURCE_PORT PORT ADDRESS: a DNS question.
ask() {
    dig +short +tries=1 +time=5 +nocookie +qid=7 -b "0.0.0.0#$1" -p "$2" "@$3" whoami.lab TXT
}

# echo_datagram SOURCE_PORT: sends a large datagram, and wants it back.
echo_datagram() {
    socat -b 65536 -t 1 - "UDP4:$VIP:7,sourceport=$1" <"$LAB/datagram" | cmp - "$LAB/datagram"
}

# send_uncut SOURCE_PORT PORT BYTES: a datagram that routers may cut.
send_uncut() {
    head -c "$3" "$LAB/datagram" |
        socat -u -b 65536 - "UDP4:$VIP:$2,sourceport=$1,ip-mtu-discover=0"
}

# traceroute_from SOURCE_PORT ARGUMENT...
traceroute_from() { traceroute -n -q 1 -N 1 -w 3 -m 5 --sport="$1" "${@:2}"; }
export -f ask echo_datagram send_uncut traceroute_from
export LAB VIP

# send HOST STATUS COMMAND...: runs it there; it must end with that status.
send() {
    local host=$1 wanted=$2 status=0
    shift 2
    note "$host\$ $(as_typed "$@")"
    on "$host" bash -c '"$@"' - "$@" >"$LAB/sent" 2>&1 || status=$?
    [[ $status == "$wanted" ]] || {
        sed 's/^/      /' "$LAB/sent"
        fault "exit status $status, not $wanted"
    }
}

# ---------------------------------------------------------------------------------------------
# The director, and the further hosts

MORE_SERVICES="
[[route]]
to = \"10.1.0.0/24\"
via = \"$CLIENT\"

[[route]]
to = \"10.2.0.0/24\"
via = \"${RIP[rs1]}\"

[[service]]
vip = \"$VIP:8080\"
scheduler = \"rr\"
server = [{ address = \"${RIP[rs1]}:80\" }]

[[service]]
protocol = [\"tcp\", \"udp\"]
vip = \"$VIP:81\"
scheduler = \"rr\"
server = [{ address = \"${RIP[rs1]}:9\" }]

[[service]]
vip = \"$VIP:82\"
scheduler = \"rr\"
server = [{ address = \"$DEEP:80\" }]

[[service]]
protocol = \"udp\"
vip = [\"$VIP:53\", \"$VIP:7\"]
scheduler = \"rr\"
server = [{ address = \"${RIP[rs1]}\" }]

[[service]]
vip = \"$VIP:8084\"
scheduler = \"rr\"
server = [{ address = \"${RIP[rs2]}:80\" }]"

shunt_services() { cat "$EXAMPLE" - <<<"$MORE_SERVICES"; }
shunt_narrow() { shunt_services | sed "s/^role = \"inside\"/&\nmtu = $INSIDE_MTU/"; }

kernel_services() {
    ip -n shunt-director route add 10.1.0.0/24 via "$CLIENT"
    ip -n shunt-director route add 10.2.0.0/24 via "${RIP[rs1]}"
    kernel_rules <<EOF
tcp dport 80 $(kernel_rr 80)
tcp dport 8080 dnat to ${RIP[rs1]}:80
tcp dport 81 dnat to ${RIP[rs1]}:9
udp dport 81 dnat to ${RIP[rs1]}:9
tcp dport 82 dnat to $DEEP:80
udp dport { 53, 7 } dnat to ${RIP[rs1]}
tcp dport 8084 dnat to ${RIP[rs2]}:80
EOF
}

kernel_narrow() {
    ip -n shunt-director link set inside0 mtu "$INSIDE_MTU"
    kernel_services
}

further_hosts_up() {
    ip -n shunt-client link add far type veth peer name far0 netns shunt-far
    ip -n shunt-rs1 link add deep type veth peer name deep0 netns shunt-deep
    turn_router client far 10.1.0
    turn_router rs1 deep 10.2.0
    plug far far0 "$FAR" 10.1.0.1
    plug deep deep0 "$DEEP" 10.2.0.1
    nginx_up deep off
}

# turn_router HOST NIC NETWORK: it routes between that network and the director's.
turn_router() {
    on "$1" ethtool -K "$2" tx off tso off gso off gro off >/dev/null
    ip -n "shunt-$1" address add "$3.1/24" dev "$2"
    ip -n "shunt-$1" link set "$2" up
    ip -n "shunt-$1" route replace "$3.0/24" dev "$2" mtu "$LINK_MTU"
    on "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0
}

# ---------------------------------------------------------------------------------------------

# Dates are part of what HTTP says of a file.
traffic_files() {
    head -c 8000 /dev/zero | tr '\0' p >"$LAB/page"
    head -c 5000 /dev/zero | tr '\0' d >"$LAB/datagram"
    touch -d @1000000000 "$LAB/page"
}

# run_traffic: fails when the director did, or a program ended in another way than it should.
run_traffic() {
    local traffic faults=0
    for traffic in "${TRAFFIC[@]}"; do
        FAULTS=()
        printf '\n%s\n' "$BOLD$traffic$PLAIN"
        # Whichever the director: both have to have the same traffic.
        if [[ $traffic == fragments && $DEVICE == af_packet ]]; then
            note "skipped: $NO_FRAGMENTS"
            continue
        fi
        director_use "${TRAFFIC_CONFIGURATION[$traffic]:-services}" ||
            die "the director is not ready after 20 s, or has ended: $(tail "$DIRECTOR_LOG")"
        pcap_start "$traffic"
        "traffic_$traffic"
        pcap_stop "$traffic"
        faults=$((faults + ${#FAULTS[@]}))
    done
    director_stop
    ((faults + ${#STOP_FAULTS[@]} == 0))
}

# pcap_start TRAFFIC: tcpdump into files, where the director's packets pass.
pcap_start() {
    local host nic
    for host in client rs1 rs2; do
        nic=server0
        [[ $host != client ]] || nic=client0
        daemon "$host" "$LAB/pcap-$host" tcpdump -Z root --immediate-mode -U -s 0 -p -n -i "$nic" \
            -w "$CAPTURES_DIR/$1-$host.pcap" ip
        CAPTURES+=("$DAEMON")
    done
    for host in client rs1 rs2; do
        until_true 5 grep -q 'listening on' "$LAB/pcap-$host" || die "tcpdump does not start on $host"
    done
}

# pcap_stop TRAFFIC: once nothing has come for half a second.
pcap_stop() {
    local before='' now
    for _ in {1..20}; do
        now=$(stat -c %s "$CAPTURES_DIR/$1"-*.pcap)
        [[ $now != "$before" ]] || break
        before=$now
        sleep 0.5
    done
    capture_stop
}
