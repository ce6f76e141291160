# shellcheck shell=bash
# The director under test: Shunt on two DPDK ports, or the kernel as a control. It runs one of
# three configurations:
#     router   no services: it forwards between its ports
#     example  examples/lvs-nat.toml as it stands
#     full     the example and the further services that the experiments need

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

write_configs() {
    local name
    for name in router example full; do write_config "$name" >"$LAB/shunt-$name.toml"; done
}

# write_config CONFIGURATION: the example file, with other devices, memory and services in it.
write_config() {
    local vdev
    for vdev in "${OUTSIDE_VDEV[af_packet]}" "${INSIDE_VDEV[af_packet]}"; do
        grep -q "device = \"$vdev\"" "$EXAMPLE" || die "$EXAMPLE has no device \"$vdev\" to replace"
    done
    case $1 in
    router) without_services ;;
    example) cat "$EXAMPLE" ;;
    full) cat "$EXAMPLE" - <<<"$FURTHER_SERVICES" ;;
    esac | sed -e "s/${OUTSIDE_VDEV[af_packet]}/${OUTSIDE_VDEV[$DEVICE]}/" \
        -e "s/${INSIDE_VDEV[af_packet]}/${INSIDE_VDEV[$DEVICE]}/" \
        -e "$([[ $HUGE_PAGES == yes ]] || echo 's/^\[dpdk\].*/&\nno-huge = true/')"
}

without_services() {
    awk '/^\[/ { skip = /^\[\[(service|snat)/ } !skip' "$EXAMPLE"
}

# 81 leads to a port where nobody listens.
FURTHER_SERVICES='
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
server = [{ address = "192.168.2.210:53" }, { address = "192.168.2.220:53" }]'

# ---------------------------------------------------------------------------------------------
# The kernel as the director: shows that the experiments themselves are right.

start_kernel() {
    dim "    director\$ the kernel: ip_forward, nftables ($1)"
    ip -n shunt-director address add "$VIP/24" dev outside0
    ip -n shunt-director address add "$DIP/24" dev inside0
    on director sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=0
    case $1 in
    router) ;;
    example) kernel_rules "80 : 80" | on director nft -f - ;;
    full) kernel_rules "80 : 80" "8080 : 80" | on director nft -f - ;;
    esac
}

stop_kernel() {
    on director nft flush ruleset
    ip -n shunt-director address flush dev outside0
    ip -n shunt-director address flush dev inside0
    mute_director
}

# kernel_rules 'VPORT : RPORT'...
kernel_rules() {
    local pair
    echo 'table ip lab {'
    echo '  chain inbound { type nat hook prerouting priority dstnat;'
    for pair; do
        echo "    ip daddr $VIP tcp dport ${pair% :*} $(kernel_rr "${pair#*: }")"
    done
    if (($# > 1)); then
        echo "    ip daddr $VIP tcp dport 81 dnat to ${RIP[rs1]}:9"
        echo "    ip daddr $VIP udp dport 53 $(kernel_rr 53)"
    fi
    echo '  }'
    echo '  chain outbound { type nat hook postrouting priority srcnat;'
    echo "    ip saddr 192.168.2.0/24 oifname outside0 snat to $VIP"
    echo '  }'
    echo '}'
}

kernel_rr() {
    echo "dnat ip addr . port to numgen inc mod 2 map { 0 : ${RIP[rs1]} . $1, 1 : ${RIP[rs2]} . $1 }"
}
