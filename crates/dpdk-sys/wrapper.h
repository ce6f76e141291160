/* What Shunt uses of DPDK: the headers, and what a header alone can tell. */
#ifndef SHUNT_DPDK_WRAPPER_H
#define SHUNT_DPDK_WRAPPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_thash.h>
#include <rte_version.h>

/*
 * Where the fields of rte_mbuf lie. DPDK wraps them in other anonymous unions and structs from
 * release to release, so the names that bindgen would make up for them are not stable; these are.
 */
#define MBUF_FIELD(NAME, field) static const size_t MBUF_OFFSET_##NAME = offsetof(struct rte_mbuf, field)
MBUF_FIELD(BUF_ADDR, buf_addr);
MBUF_FIELD(DATA_OFF, data_off);
MBUF_FIELD(NB_SEGS, nb_segs);
MBUF_FIELD(PORT, port);
MBUF_FIELD(OL_FLAGS, ol_flags);
MBUF_FIELD(PKT_LEN, pkt_len);
MBUF_FIELD(DATA_LEN, data_len);
MBUF_FIELD(VLAN_TCI, vlan_tci);
MBUF_FIELD(BUF_LEN, buf_len);
MBUF_FIELD(TX_OFFLOAD, tx_offload);

/* Bit positions in `tx_offload`; they depend on the byte order. */
static const uint32_t MBUF_TX_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS;
static const uint32_t MBUF_TX_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS;

/* Macros that bindgen cannot evaluate. The name is DPDK's without `RTE_`. */
#define FLAG(NAME) static const uint64_t NAME = RTE_##NAME
FLAG(MBUF_F_RX_VLAN_STRIPPED);
FLAG(MBUF_F_RX_IP_CKSUM_MASK);
FLAG(MBUF_F_RX_IP_CKSUM_BAD);
FLAG(MBUF_F_RX_IP_CKSUM_GOOD);
FLAG(MBUF_F_RX_L4_CKSUM_MASK);
FLAG(MBUF_F_RX_L4_CKSUM_BAD);
FLAG(MBUF_F_RX_L4_CKSUM_GOOD);
FLAG(MBUF_F_TX_IPV4);
FLAG(MBUF_F_TX_IP_CKSUM);
FLAG(MBUF_F_TX_TCP_CKSUM);
FLAG(MBUF_F_TX_UDP_CKSUM);
FLAG(MBUF_F_EXTERNAL);
FLAG(MBUF_F_INDIRECT);

FLAG(ETH_RX_OFFLOAD_VLAN_STRIP);
FLAG(ETH_RX_OFFLOAD_IPV4_CKSUM);
FLAG(ETH_RX_OFFLOAD_UDP_CKSUM);
FLAG(ETH_RX_OFFLOAD_TCP_CKSUM);
FLAG(ETH_RX_OFFLOAD_SCATTER);
FLAG(ETH_RX_OFFLOAD_RSS_HASH);
FLAG(ETH_TX_OFFLOAD_VLAN_INSERT);
FLAG(ETH_TX_OFFLOAD_IPV4_CKSUM);
FLAG(ETH_TX_OFFLOAD_UDP_CKSUM);
FLAG(ETH_TX_OFFLOAD_TCP_CKSUM);
FLAG(ETH_TX_OFFLOAD_MULTI_SEGS);
FLAG(ETH_TX_OFFLOAD_MBUF_FAST_FREE);
FLAG(ETH_RSS_IPV4);
FLAG(ETH_RSS_FRAG_IPV4);
FLAG(ETH_RSS_NONFRAG_IPV4_TCP);
FLAG(ETH_RSS_NONFRAG_IPV4_UDP);
FLAG(ETH_RSS_NONFRAG_IPV4_OTHER);

/* What DPDK has only as static inline functions or thread-local variables (shim.c). */
int shunt_errno(void);
uint64_t shunt_rdtsc(void);
struct rte_mbuf *shunt_mbuf_alloc(struct rte_mempool *pool);
void shunt_mbuf_free(struct rte_mbuf *mbuf);
uint16_t shunt_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shunt_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
unsigned int shunt_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count);
unsigned int shunt_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count);
uint32_t shunt_softrss(const uint32_t *tuple, uint32_t words, const uint8_t *key);

/* rte_eth_link_get_nowait() without rte_eth_link, whose layout differs between releases. */
int shunt_link_get(uint16_t port, bool *up, uint32_t *speed_mbps);

/* Sends DPDK's log to `write`, in pieces that may end in the middle of a line. */
typedef void (*shunt_log_write)(uint32_t level, const char *text, size_t length);
int shunt_log_open(shunt_log_write write);

#endif
