# shellcheck shell=bash
# The lab's wires: network namespaces, veth pairs, and the inside segment's switch.
#
#     shunt-client           shunt-director               shunt-switch        shunt-rs1, shunt-rs2
#     client0 ────────────── outside0 │ inside0 ───────── director ┐
#     192.168.1.200          .1.100   │ .2.200                 br0 ├── rs1 ─── server0 192.168.2.210
#                                                                  └── rs2 ─── server0 192.168.2.220

# shellcheck disable=SC2034  # read by the files beside this one
{
    CLIENT=192.168.1.200
    CLIENT2=192.168.1.201 # the client's second address, where an experiment needs two clients
    VIP=192.168.1.100
    DIP=192.168.2.200
    LIP=192.168.2.201 # what the servers of full-nat services see
    declare -A RIP=([rs1]=192.168.2.210 [rs2]=192.168.2.220)
}
HOSTS=(client director switch rs1 rs2)
FURTHER_HOSTS=(far deep) # see traffic.sh

# Where the lab keeps its files: a link to a directory in /var/tmp, for some of them are large.
LAB=/run/shunt-lab

# on HOST COMMAND...: runs it on that host.
on() {
    local host=$1
    shift
    ip netns exec "shunt-$host" "$@"
}

# daemon HOST LOG COMMAND...: starts it there, away from this terminal and its Ctrl-C; DAEMON is
# its process id. File 9 is the lock of this run, which no daemon may take along.
daemon() {
    local host=$1 log=$2
    shift 2
    # Here, not in the child: who waits for a word in the log must not find that of an earlier one.
    : >"$log"
    setsid ip netns exec "shunt-$host" "$@" </dev/null >>"$log" 2>&1 9>&- &
    DAEMON=$!
}

# until_true SECONDS COMMAND...: tries it ten times a second.
until_true() {
    local tries=$(($1 * 10))
    shift
    while ((tries-- > 0)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    return 1
}

network_is_up() { [[ -e /run/netns/shunt-director ]]; }

network_up() {
    local host
    for host in "${HOSTS[@]}"; do
        ip netns add "shunt-$host"
        ip -n "shunt-$host" link set lo up
    done
    mute_director

    ip -n shunt-client link add client0 type veth peer name outside0 netns shunt-director
    ip -n shunt-director link add inside0 type veth peer name director netns shunt-switch
    ip -n shunt-rs1 link add server0 type veth peer name rs1 netns shunt-switch
    ip -n shunt-rs2 link add server0 type veth peer name rs2 netns shunt-switch

    ip -n shunt-switch link add br0 type bridge forward_delay 0
    for host in director rs1 rs2; do ip -n shunt-switch link set "$host" master br0 up; done
    ip -n shunt-switch link set br0 up

    ip -n shunt-director link set outside0 up
    ip -n shunt-director link set inside0 up
    plug client client0 "$CLIENT" "$VIP"
    plug rs1 server0 "${RIP[rs1]}" "$DIP"
    plug rs2 server0 "${RIP[rs2]}" "$DIP"
}

# Only the director under test may answer: its kernel has no address, and forwards nothing.
mute_director() {
    on director sysctl -qw \
        net.ipv4.ip_forward=0 \
        net.ipv4.conf.all.arp_ignore=8 \
        net.ipv6.conf.all.disable_ipv6=1 \
        net.ipv6.conf.default.disable_ipv6=1
}

# plug HOST NIC ADDRESS GATEWAY. A veth leaves checksums and segmentation to hardware that it
# hasn't got; a director that sees real frames must not see unfinished ones.
plug() {
    on "$1" ethtool -K "$2" tx off tso off gso off gro off >/dev/null
    ip -n "shunt-$1" address add "$3/24" dev "$2"
    ip -n "shunt-$1" link set "$2" up
    ip -n "shunt-$1" route add default via "$4"
}

# tap_up: TAPs for net_tap, each wired to a NIC: what comes out of one goes into the other. They
# are persistent, so that the wires are there before the director's first frame.
tap_up() {
    local side
    for side in outside inside; do
        ip -n shunt-director tuntap add "tap-$side" mode tap multi_queue
        wire "tap-$side" "${side}0"
        wire "${side}0" "tap-$side"
    done
}

# u32, because small kernels have it and lack the simpler matchall.
wire() {
    on director tc qdisc add dev "$1" clsact
    on director tc filter add dev "$1" ingress protocol all \
        u32 match u32 0 0 action mirred egress redirect dev "$2"
}

# network_down: ends what runs in our namespaces, and them.
network_down() {
    local host pids
    for host in "${HOSTS[@]}" "${FURTHER_HOSTS[@]}"; do
        [[ -e /run/netns/shunt-$host ]] || continue
        mapfile -t pids < <(ip netns pids "shunt-$host")
        if ((${#pids[@]})); then
            kill "${pids[@]}" 2>/dev/null || true
            until_true 5 no_pids "shunt-$host" || kill -KILL "${pids[@]}" 2>/dev/null || true
        fi
        ip netns delete "shunt-$host"
    done
}

no_pids() { [[ -z $(ip netns pids "$1") ]]; }
