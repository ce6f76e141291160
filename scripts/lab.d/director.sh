# shellcheck shell=bash
# The director under test: Shunt on two DPDK ports, or the kernel as a control. It runs one of
# three configurations:
#     router   no services: it forwards between its ports
#     example  examples/lvs-nat.toml as it stands
#     full     the example and the further services that the experiments need
# or those of traffic.sh. A configuration NAME is a function shunt_NAME that prints a service file,
# and a function kernel_NAME that prints rules of nftables.

EXAMPLE=$ROOT/examples/lvs-nat.toml
declare -A OUTSIDE_VDEV=(
    [af_packet]=net_af_packet0,iface=outside0
    [af_xdp]=net_af_xdp0,iface=outside0
    [tap]=net_tap0,iface=tap-outside
)
declare -A INSIDE_VDEV=(
    [af_packet]=net_af_packet1,iface=inside0
    [af_xdp]=net_af_xdp1,iface=inside0
    [tap]=net_tap1,iface=tap-inside
)

# shellcheck disable=SC2034  # read by the files beside this one
NO_FRAGMENTS="the kernel puts fragments together before net_af_packet sees them"
no_fragments_arrive() { [[ $DIRECTOR == shunt && $DEVICE == af_packet ]]; }

RUNNING=''      # the configuration that runs
DIRECTOR_PID='' # of Shunt

# director_use CONFIGURATION: fails when the director does not start.
director_use() {
    [[ $RUNNING != "$1" ]] || return 0
    director_stop
    "start_$DIRECTOR" "$1" || return
    RUNNING=$1
}

director_stop() {
    [[ -n $RUNNING ]] || return 0
    RUNNING=''
    "stop_$DIRECTOR"
}

# ---------------------------------------------------------------------------------------------
# Shunt

start_shunt() {
    local log=$LAB/shunt-$1.log
    # A director that was killed leaves its XDP program on the NIC.
    on director ip link set outside0 xdp off
    on director ip link set inside0 xdp off
    dim "    director\$ ${BINARY##*/} run --config shunt-$1.toml"
    daemon director "$log" env NO_COLOR=1 "$BINARY" run --config "$LAB/shunt-$1.toml"
    DIRECTOR_PID=$DAEMON
    DIRECTOR_LOG=$log
    until_true 20 ready_or_gone || true
    director_is_ready && return
    kill -KILL "$DIRECTOR_PID" 2>/dev/null || true
    return 1
}

director_is_ready() { grep -q 'director ready' "$DIRECTOR_LOG"; }
ready_or_gone() { director_is_ready || director_is_gone; }

# stop_shunt: SIGTERM, and what must be true afterwards.
stop_shunt() {
    local status=0 mbufs
    kill -TERM "$DIRECTOR_PID" 2>/dev/null || true
    if ! until_true 10 director_is_gone; then
        kill -KILL "$DIRECTOR_PID" 2>/dev/null || true
        STOP_FAULTS+=("shunt ignored SIGTERM for 10 s")
    fi
    wait "$DIRECTOR_PID" 2>/dev/null || status=$?
    ((status == 0)) || STOP_FAULTS+=("exit status $status after SIGTERM")
    mbufs=$(grep -o 'mbufs: [0-9]* of [0-9]* back in the pool' "$DIRECTOR_LOG" | tail -n 1) || true
    [[ $mbufs =~ ([0-9]+)\ of\ ([0-9]+) && ${BASH_REMATCH[1]} == "${BASH_REMATCH[2]}" ]] ||
        STOP_FAULTS+=("mbufs leaked: ${mbufs:-no line that counts them}")
    STOPS+=("exit status $status, ${mbufs:-mbufs not counted}")
}

# A zombie is gone, too: `kill -0` would still find it.
director_is_gone() { [[ $(ps -o state= -p "$DIRECTOR_PID") != [^Z]* ]]; }

# director_change SED: edits the service file of the director that runs, and has it read that again.
director_change() {
    local said
    said=$(grep -c 'SIGHUP: ' "$DIRECTOR_LOG") || true
    note "director\$ sed -i '$1' shunt-$RUNNING.toml && kill -HUP"
    sed -i "$1" "$LAB/shunt-$RUNNING.toml"
    kill -HUP "$DIRECTOR_PID"
    until_true 5 said_more "$said" || fault "the director does not say what it read"
    grep 'SIGHUP: ' "$DIRECTOR_LOG" | tail -n +$((said + 1)) | sed 's/^/      /'
}
said_more() { (($(grep -c 'SIGHUP: ' "$DIRECTOR_LOG") > $1)); }

# write_configs: the example file, with other devices, memory and services in it.
write_configs() {
    local vdev name
    for vdev in "${OUTSIDE_VDEV[af_packet]}" "${INSIDE_VDEV[af_packet]}"; do
        grep -q "device = \"$vdev\"" "$EXAMPLE" || die "$EXAMPLE has no device \"$vdev\" to replace"
    done
    for name in router example full services narrow; do
        "shunt_$name" | sed -e "s/${OUTSIDE_VDEV[af_packet]}/${OUTSIDE_VDEV[$DEVICE]}/" \
            -e "s/${INSIDE_VDEV[af_packet]}/${INSIDE_VDEV[$DEVICE]}/" \
            -e "$([[ $WORKERS == 1 ]] || echo 's/^worker-lcores = .*/worker-lcores = [1, 0]/')" \
            -e "$([[ $HUGE_PAGES == yes ]] || echo 's/^\[dpdk\].*/&\nno-huge = true/')" \
            >"$LAB/shunt-$name.toml"
    done
}

shunt_router() { awk '/^\[/ { skip = /^\[\[(service|snat)/ } !skip' "$EXAMPLE"; }
shunt_example() { cat "$EXAMPLE"; }
shunt_full() { cat "$EXAMPLE" - <<<"$FURTHER_SERVICES"; }

# 81 leads to a port where nobody listens.
FURTHER_SERVICES='
[[nat.local-address]]
address = "192.168.2.201"

[[service]]
protocol = "tcp"
vip = "192.168.1.100:8080"
scheduler = "rr"
server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]

[[service]]
protocol = "tcp"
vip = "192.168.1.100:81"
scheduler = "rr"
server = [{ address = "192.168.2.210:9" }]

[[service]]
protocol = "udp"
vip = "192.168.1.100:53"
scheduler = "rr"
server = [{ address = "192.168.2.210:53" }, { address = "192.168.2.220:53" }]

[[service]]
protocol = "udp"
vip = "192.168.1.100:7"
scheduler = "rr"
server = [{ address = "192.168.2.210:7" }, { address = "192.168.2.220:7" }]

[[service]]
vip = "192.168.1.100:8081"
scheduler = "rr"
mode = "full-nat"
server = [{ address = "192.168.2.220:80" }]

[[service]]
vip = "192.168.1.100:8082"
scheduler = "rr"
persistence = true
server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]

[[service]]
vip = "192.168.1.100:8083"
scheduler = "rr"
server = [{ address = "192.168.2.210:80", weight = 0 }]
fallback = "192.168.2.220:80"'

# ---------------------------------------------------------------------------------------------
# The kernel as the director: shows that the experiments themselves are right.

start_kernel() {
    dim "    director\$ the kernel: ip_forward, nftables ($1)"
    ip -n shunt-director address add "$VIP/24" dev outside0
    ip -n shunt-director address add "$DIP/24" dev inside0
    ip -n shunt-director address add "$LIP/24" dev inside0
    on director sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=0 \
        net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.inside0.send_redirects=0
    "kernel_$1" | on director nft -f -
}

stop_kernel() {
    on director nft flush ruleset
    ip -n shunt-director address flush dev outside0
    ip -n shunt-director address flush dev inside0
    ip -n shunt-director link set inside0 mtu 1500
    mute_director
}

kernel_router() { :; }

kernel_example() {
    kernel_rules <<EOF
tcp dport 80 $(kernel_rr 80)
EOF
}

kernel_full() {
    kernel_rules <<EOF
tcp dport { 80, 8080 } $(kernel_rr 80)
tcp dport 81 dnat to ${RIP[rs1]}:9
udp dport 53 $(kernel_rr 53)
udp dport 7 $(kernel_rr 7)
tcp dport 8081 ct mark set $FULL_NAT dnat to ${RIP[rs2]}:80
tcp dport 8082 dnat ip addr . port to ip saddr map { $CLIENT : ${RIP[rs1]} . 80, $CLIENT2 : ${RIP[rs2]} . 80 }
tcp dport 8083 dnat to ${RIP[rs2]}:80
EOF
}

# kernel_rules: reads a rule for each service, as it matches packets to the VIP.
FULL_NAT=1
kernel_rules() {
    cat <<EOF
table ip lab {
    chain inbound {
        type nat hook prerouting priority dstnat
        ip daddr $VIP jump services
    }
    chain services {
$(sed 's/^/        /')
    }
    chain outbound {
        type nat hook postrouting priority srcnat
        ip saddr 192.168.2.0/24 oifname outside0 snat to $VIP
        ip saddr 192.168.2.0/24 oifname inside0 ct status dnat snat to $DIP
        ct mark $FULL_NAT snat to $LIP
    }
}
EOF
}

kernel_rr() {
    echo "dnat ip addr . port to numgen inc mod 2 map { 0 : ${RIP[rs1]} . $1, 1 : ${RIP[rs2]} . $1 }"
}
