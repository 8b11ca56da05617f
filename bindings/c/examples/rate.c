/* Throughput of an encrypted pipe on loopback: rate prints its address and reads what comes, rate ADDRESS BYTES sends so many
 * bytes and prints MB/s until the peer has read them all. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <p2pd.h>

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "rate: %s: %s\n", what, why);
    exit(1);
}

int main(int argc, char **argv) {
    static char buffer[65536];
    size_t bytes = argc > 2 ? (size_t)atoll(argv[2]) : 0, left = bytes, n;
    uint64_t call, pipe = 0;
    double began = 0;
    p2pd_config *config;
    p2pd_node *node;
    int fd, sending = argc > 2, over = 0;
    if (p2pd_config_new(&config) != P2PD_OK || p2pd_config_bind(config, "127.0.0.1") != P2PD_OK ||
        p2pd_node_open(config, &node) != P2PD_OK)
        fail("node", p2pd_config_error(config));
    p2pd_config_free(config);
    p2pd_node_fd(node, &fd);
    if (sending && p2pd_node_connect(node, argv[1], NULL, &call) != P2PD_OK)
        fail(argv[1], p2pd_node_error(node));
    memset(buffer, 7, sizeof buffer);
    while (!over) {
        p2pd_event event = {.size = sizeof event};
        while (p2pd_node_next_event(node, &event) == P2PD_OK) {
            if (event.kind == P2PD_EVENT_READY && !sending)
                printf("%s\n", event.text), fflush(stdout);
            if (event.kind == P2PD_EVENT_NOT_OPENED)
                fail("no connection", event.text);
            if (event.kind == P2PD_EVENT_OPENED || event.kind == P2PD_EVENT_INCOMING)
                pipe = event.pipe, began = now();
            if (event.kind == P2PD_EVENT_PIPE_READABLE || event.kind == P2PD_EVENT_PIPE_WRITABLE) {
                p2pd_status status = P2PD_OK;
                while (left && status == P2PD_OK) {
                    status = p2pd_pipe_write(node, pipe, buffer, left < sizeof buffer ? left : sizeof buffer, &n);
                    left -= n;
                }
                if (sending && !left)
                    p2pd_pipe_shutdown(node, pipe);
                do
                    status = p2pd_pipe_read(node, pipe, buffer, sizeof buffer, &n);
                while (status == P2PD_OK);
                if (status < 0)
                    fail("pipe", p2pd_node_error(node));
                over = status == P2PD_END;
            }
        }
        int32_t timeout = -1;
        p2pd_node_timeout(node, &timeout);
        if (!over)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, timeout);
        p2pd_node_turn(node, 0);
    }
    if (sending)
        printf("%.0f\n", (double)bytes / (now() - began) / 1e6);
    p2pd_pipe_shutdown(node, pipe);
    p2pd_pipe_close(node, pipe);
    p2pd_node_turn(node, 0);
    p2pd_node_free(node);
    return 0;
}
