# shellcheck shell=bash
# The experiments. Each prints what it does and what came back, and says what should have.

BIG_DATAGRAM=5000

TITLES=(
    [1]="no services yet: the director as a plain router"
    [2]="VIP $VIP:80, scheduler rr, both servers: four fetches"
    [3]="port mapping: $VIP:8080 to port 80 of the servers"
    [4]="captures: who sees whose address"
    [5]="ping: the director's addresses, and a server through it"
    [6]="traceroute from the client to rs1"
    [7]="a $BIG_MB MB download and a $BIG_MB MB upload through the VIP, both at once"
    [8]="UDP: DNS servers behind $VIP:53"
    [9]="outbound SNAT: rs1 fetches from a server on the outside"
    [10]="load: wrk, 50 connections for 10 s against the VIP"
    [11]="what cannot be reached is refused, not swallowed"
    [12]="fragments: a datagram of $BIG_DATAGRAM bytes and its echo by UDP"
    [13]="full-nat: a server whose gateway is not the director"
    [14]="hairpin: the servers dial the VIP"
    [15]="persistence: a client keeps its server"
    [16]="outbound SNAT: rs1 pings a host on the outside"
    [17]="fallback: a service whose only server has weight 0"
    [18]="a server is taken out under load, and put back: the file is edited, the director reads it"
)
# shellcheck disable=SC2034  # read by the lab, as is TITLES
CONFIGURATIONS=([1]=router [2]=example
    [3]=full [4]=full [5]=full [6]=full [7]=full [8]=full [9]=full [10]=full [11]=full
    [12]=full [13]=full [14]=full [15]=full [16]=full [17]=full [18]=full)

experiment_1() {
    local server
    for server in rs1 rs2; do
        show_on client curl -sS --max-time 5 "http://${RIP[$server]}/"
        expect "the answer" "$server" "$OUTPUT"
    done
}

experiment_2() {
    local answers=()
    for _ in 1 2 3 4; do
        show_on client curl -sS --max-time 5 "http://$VIP/"
        answers+=("$OUTPUT")
    done
    expect "the order" "rs1 rs2 rs1 rs2" "${answers[*]}"
}

# Captures look at these client ports only: a connection of an earlier experiment may still be
# closing, and retransmit into one.
readonly CAPTURED=(tcp portrange 20000-20099)
readonly FROM_CAPTURED=(--local-port 20000-20099)

experiment_3() {
    capture_start client client0 "${CAPTURED[@]}" and dst host "$CLIENT"
    show_on client curl -sS --max-time 5 "${FROM_CAPTURED[@]}" "http://$VIP:8080/"
    capture_stop
    expect_match "the answer" '^rs[12]$' "$OUTPUT"
    expect "the sources of what the client receives" "$VIP.8080" "$(sources client)"
}

experiment_4() {
    local server
    capture_start client client0 "${CAPTURED[@]}"
    capture_start rs1 server0 "${CAPTURED[@]}" and dst port 80
    capture_start rs2 server0 "${CAPTURED[@]}" and dst port 80
    show_on client curl -sS --max-time 5 "${FROM_CAPTURED[@]}" "http://$VIP/"
    show_on client curl -sS --max-time 5 "${FROM_CAPTURED[@]}" "http://$VIP/"
    capture_stop
    expect "the addresses at the client" "$VIP $CLIENT" "$(addresses client)"
    for server in rs1 rs2; do
        expect "the sources at $server" "$CLIENT" "$(sources "$server" | strip_ports)"
    done
}

experiment_5() {
    local host
    for host in client rs1 rs2; do
        expect_ping "$host" "$VIP" 64
        expect_ping "$host" "$DIP" 64
    done
    expect_ping client "${RIP[rs1]}" 63
    expect_ping client "${RIP[rs2]}" 63
}

# expect_ping HOST ADDRESS TTL: three requests, three answers that arrive with that TTL.
expect_ping() {
    local ttls
    show_on "$1" ping -n -c 3 -i 0.2 -W 1 "$2"
    ttls=$(grep -o "from $2: .* ttl=[0-9]*" <<<"$OUTPUT" | grep -o 'ttl=[0-9]*') || true
    expect "the answers to $1 from $2" "ttl=$3 ttl=$3 ttl=$3" "$(words <<<"$ttls")"
}

experiment_6() {
    local method
    for method in '' --icmp '--tcp --port=80'; do
        # shellcheck disable=SC2086  # an empty or a two-word method
        show_on client traceroute -n -q 1 -w 2 -m 4 $method "${RIP[rs1]}"
        expect "the hops" "1 $VIP 2 ${RIP[rs1]}" \
            "$(awk '$1 ~ /^[0-9]+$/ { print $1, $2 }' <<<"$OUTPUT" | words)"
    done
}

experiment_7() {
    local name=upload-$RANDOM down=0 up=0 loader sum
    rm -f "$LAB"/rs[12]/upload/* "$LAB/download"
    sum=$(sha256 "$LAB/big")
    note "client\$ curl -o download http://$VIP/big &"
    on client curl -sS --max-time 60 -o "$LAB/download" "http://$VIP/big" &
    loader=$!
    note "client\$ curl --upload-file big http://$VIP/upload/$name"
    on client curl -sS --max-time 60 --upload-file "$LAB/big" "http://$VIP/upload/$name" || up=$?
    wait "$loader" || down=$?
    note "download $(sha256 "$LAB/download")"
    note "upload   $(sha256 "$LAB"/rs[12]/upload/"$name")"
    expect "curl's exit status, down and up" "0 0" "$down $up"
    expect "the download's sha256" "$sum" "$(sha256 "$LAB/download")"
    expect "the upload's sha256" "$sum" "$(sha256 "$LAB"/rs[12]/upload/"$name")"
}

experiment_8() {
    local answers=()
    for _ in 1 2 3 4; do
        # dig itself takes no answer from another address than the one it asked.
        show_on client dig +short +tries=1 +time=3 "@$VIP" whoami.lab TXT
        answers+=("$OUTPUT")
    done
    expect "who answers" '"rs1" "rs2"' "$(printf '%s\n' "${answers[@]}" | unique)"
}

experiment_9() {
    local log=$LAB/client/access.log
    : >"$log"
    show_on rs1 curl -sS --max-time 5 "http://$CLIENT/"
    expect "the answer" "client" "$OUTPUT"
    until_true 2 test -s "$log" || true
    show_on client cat "$log"
    expect "whom that nginx saw" "$VIP" "$(awk '{ print $1 }' <<<"$OUTPUT" | unique)"
}

experiment_10() {
    # With its port: a machine without /etc/services does not know what http is.
    show_on client wrk --threads 2 --connections 50 --duration 10s "http://$VIP:80/"
    expect_match "what wrk reports" 'Requests/sec: +[1-9]' "$OUTPUT"
    expect "socket errors and answers other than 2xx" "" \
        "$(grep -E 'Socket errors|Non-2xx' <<<"$OUTPUT" || true)"
}

experiment_11() {
    # 1 s: sooner than a SYN that met silence is sent again.
    expect_dial "a server's closed port" tcp "${RIP[rs1]}" 9 1 "Connection refused"
    expect_dial "a service whose server's port is closed" tcp "$VIP" 81 1 "Connection refused"
    expect_dial "an unknown TCP port of the VIP" tcp "$VIP" 9999 1 "Connection refused"
    expect_dial "an unknown UDP port of the VIP" udp "$VIP" 9999 1 "Connection refused"
    # The client would say the same of a director that answers no ARP: see who says it.
    capture_start client client0 icmp
    expect_dial "an unknown host inside" tcp 192.168.2.99 80 6 "No route to host"
    capture_stop
    expect_match "the ICMP message for the unknown host" \
        "IP $VIP > $CLIENT: ICMP host 192.168.2.99 unreachable" "$(captured client)"
}

experiment_12() {
    local server
    if no_fragments_arrive; then
        skip "$NO_FRAGMENTS"
        return
    fi
    head -c "$BIG_DATAGRAM" "$LAB/big" >"$LAB/datagram"
    capture_start client client0 "$FRAGMENTS"
    for server in rs1 rs2; do capture_start "$server" server0 "$FRAGMENTS"; done
    note "client\$ socat -t 1 - UDP4:$VIP:7 <datagram >echo"
    on client socat -b 65536 -t 1 - "UDP4:$VIP:7" <"$LAB/datagram" >"$LAB/echo" || true
    capture_stop
    expect "the echo's sha256" "$(sha256 "$LAB/datagram")" "$(sha256 "$LAB/echo")"
    expect "who sends fragments, at the client" "$VIP $CLIENT" "$(addresses client)"
    expect_match "who sends fragments, at the servers" "^$CLIENT 192.168.2.2[12]0$" \
        "$({ captured rs1; captured rs2; } | addresses_in)"
}

# Fragments, first or later.
readonly FRAGMENTS='ip[6:2] & 0x3fff != 0'

experiment_13() {
    capture_start rs2 server0 tcp and dst port 80
    note "rs2\$ ip route delete default"
    ip -n shunt-rs2 route delete default
    show_on client curl -sS --max-time 5 "http://$VIP:8081/"
    ip -n shunt-rs2 route add default via "$DIP"
    capture_stop
    expect "the answer" rs2 "$OUTPUT"
    expect "whom rs2 sees" "$LIP" "$(sources rs2 | strip_ports)"
}

experiment_14() {
    local answers=()
    capture_start rs2 server0 tcp and dst port 80
    for _ in 1 2; do
        show_on rs1 curl -sS --max-time 5 "http://$VIP:8080/"
        answers+=("$OUTPUT")
    done
    capture_stop
    expect "who answers rs1" "rs1 rs2" "$(printf '%s\n' "${answers[@]}" | unique)"
    expect "whom rs2 sees" "$DIP" "$(sources rs2 | strip_ports)"
}

experiment_15() {
    local client answers=()
    ip -n shunt-client address add "$CLIENT2/24" dev client0
    for client in "$CLIENT" "$CLIENT2" "$CLIENT" "$CLIENT2"; do
        show_on client curl -sS --max-time 5 --interface "$client" "http://$VIP:8082/"
        answers+=("$OUTPUT")
    done
    ip -n shunt-client address delete "$CLIENT2/24" dev client0
    expect "the order" "rs1 rs2 rs1 rs2" "${answers[*]}"
}

experiment_16() {
    capture_start client client0 icmp
    expect_ping rs1 "$CLIENT" 63
    capture_stop
    expect "the addresses at the client" "$VIP $CLIENT" "$(addresses client)"
}

experiment_17() {
    show_on client curl -sS --max-time 5 "http://$VIP:8083/"
    expect "the answer" rs2 "$OUTPUT"
}

experiment_18() {
    local in='address = "192.168.2.210:80"' out='address = "192.168.2.210:80", weight = 0'
    local loader at_rs1 at_rs2
    if [[ $DIRECTOR == kernel ]]; then
        skip "the kernel has no service file"
        return
    fi
    at_rs1=$(accepted rs1)
    # A connection for each request: all the time some are opened, and some end.
    set -- wrk --threads 1 --connections 20 --duration 8s -H 'Connection: close' "http://$VIP:80/"
    note "client\$ $(as_typed "$@") &"
    on client "$@" >"$LAB/wrk" 2>&1 9>&- &
    loader=$!
    until_true 5 accepts_more rs1 "$at_rs1" || fault "rs1 has no connections"

    director_change "0,/$in/s//$out/"
    until_true 3 is_idle rs1 || fault "rs1 keeps connections: $(established rs1)"
    at_rs1=$(accepted rs1) at_rs2=$(accepted rs2)
    sleep 1
    expect "connections that rs1 got while it was out" 0 $(($(accepted rs1) - at_rs1))
    expect_more "connections that rs2 got meanwhile" 0 $(($(accepted rs2) - at_rs2))

    director_change "0,/$out/s//$in/"
    until_true 3 accepts_more rs1 "$at_rs1" || fault "rs1 is not back"
    wait "$loader" || fault "wrk's exit status is $?"
    sed 's/^/      /' "$LAB/wrk"
    expect_match "what wrk reports" 'Requests/sec: +[1-9]' "$(<"$LAB/wrk")"
    expect "socket errors and answers other than 2xx" "" \
        "$(grep -E 'Socket errors|Non-2xx' "$LAB/wrk" || true)"
}

# accepted HOST: how many TCP connections it has accepted so far (RFC 4022's tcpPassiveOpens).
# shellcheck disable=SC2016  # awk expands it
accepted() { on "$1" awk '/^Tcp: [0-9]/ { print $7 }' /proc/net/snmp; }
accepts_more() { (($(accepted "$1") > $2)); }
established() { on "$1" ss -Hnt state established 'sport = :80'; }
is_idle() { [[ -z $(established "$1") ]]; }

# expect_dial WHAT PROTOCOL ADDRESS PORT SECONDS ERROR
expect_dial() {
    local script="exec 3<>/dev/$2/$3/$4"
    # A connected UDP socket learns of an ICMP error when it reads.
    [[ $2 == tcp ]] || script+=" && echo >&3 && read -r -u 3"
    show_on client timeout "$5" bash -c "$script"
    expect_match "$1" "$6" "$OUTPUT"
}

# ---------------------------------------------------------------------------------------------
# The language of the experiments

note() { dim "    $*"; }

# show_on HOST COMMAND...: runs it there, and shows it and what came back, which is left in OUTPUT.
show_on() {
    local host=$1
    shift
    note "$host\$ $(as_typed "$@")"
    OUTPUT=$(on "$host" "$@" 2>&1) || true
    [[ -z $OUTPUT ]] || sed 's/^/      /' <<<"$OUTPUT"
}

as_typed() {
    local word line=''
    for word; do
        [[ $word != *[[:space:]]* ]] || word="'$word'"
        line+=" $word"
    done
    printf '%s' "${line# }"
}

# skip WHY: the experiment can't be made.
skip() {
    SKIPPED=yes
    note "$1"
}

# expect WHAT WANTED GOT
expect() {
    EXPECTATIONS=$((EXPECTATIONS + 1))
    [[ $3 == "$2" ]] || fault "$1: wanted '$2', got '$3'"
}

# expect_more WHAT LIMIT GOT
expect_more() {
    EXPECTATIONS=$((EXPECTATIONS + 1))
    (($3 > $2)) || fault "$1: wanted more than $2, got $3"
}

# expect_match WHAT REGEX GOT
expect_match() {
    EXPECTATIONS=$((EXPECTATIONS + 1))
    [[ $3 =~ $2 ]] || fault "$1: wanted a match of '$2', got '$3'"
}

fault() {
    FAULTS+=("$1")
    fail "  $1"
}

# capture_start HOST NIC FILTER...: tcpdump there, until capture_stop.
capture_start() {
    local host=$1 nic=$2 file=$LAB/capture-$1
    shift 2
    note "$host\$ tcpdump -i $nic $* &"
    daemon "$host" "$file" tcpdump -nqtl --immediate-mode -i "$nic" "$@"
    CAPTURES+=("$DAEMON")
    until_true 5 grep -q 'listening on' "$file" || fault "tcpdump does not start on $host"
}

capture_stop() {
    sleep 0.2 # the last frames are on their way
    kill "${CAPTURES[@]}" 2>/dev/null || true
    wait "${CAPTURES[@]}" 2>/dev/null || true
    CAPTURES=()
}

captured() { grep '^IP ' "$LAB/capture-$1" || true; }

# Of a capture's lines, `IP 192.168.1.200.4242 > 192.168.1.100.80: tcp 0`:
sources() { captured "$1" | awk '{ print $2 }' | unique; }
addresses() { captured "$1" | addresses_in; }
addresses_in() { awk '{ sub(":", "", $4); print $2; print $4 }' | strip_ports; }
strip_ports() { tr ' ' '\n' | sed -E 's/^([0-9]+(\.[0-9]+){3})\.[0-9]+$/\1/' | unique; }

unique() { sort -u | words; }
words() { xargs -d '\n' echo | sed 's/ *$//'; }
sha256() { sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }
