/* C functions around what DPDK offers only to C. */
#define _GNU_SOURCE /* fopencookie */
#include "wrapper.h"

#include <errno.h>
#include <sys/types.h>

int shunt_errno(void)
{
	return rte_errno;
}

uint64_t shunt_rdtsc(void)
{
	return rte_rdtsc();
}

struct rte_mbuf *shunt_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void shunt_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

uint16_t shunt_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t shunt_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

unsigned int shunt_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_ring_sp_enqueue_burst(ring, (void **)mbufs, count, NULL);
}

unsigned int shunt_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_ring_sc_dequeue_burst(ring, (void **)mbufs, count, NULL);
}

uint32_t shunt_softrss(const uint32_t *tuple, uint32_t words, const uint8_t *key)
{
	return rte_softrss((uint32_t *)tuple, words, key); /* which only reads it */
}

int shunt_link_get(uint16_t port, bool *up, uint32_t *speed_mbps)
{
	struct rte_eth_link link = { 0 };
	int status = rte_eth_link_get_nowait(port, &link);

	*up = link.link_status == RTE_ETH_LINK_UP;
	*speed_mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
	return status;
}

/* ISO C has no conversion between function and object pointers, so the cookie points to one. */
static shunt_log_write log_write;

static ssize_t write_log(void *cookie, const char *text, size_t length)
{
	(*(shunt_log_write *)cookie)((uint32_t)rte_log_cur_msg_loglevel(), text, length);
	return (ssize_t)length;
}

int shunt_log_open(shunt_log_write write)
{
	const cookie_io_functions_t functions = { .write = write_log };
	FILE *stream;

	log_write = write;
	stream = fopencookie(&log_write, "w", functions);
	if (stream == NULL)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, BUFSIZ); /* DPDK knows the level only while it logs the line */
	return rte_openlog_stream(stream);
}
