/* Sends every peer its own bytes back: echo [--bind IP] [--servers FILE]. Prints its address. One poll(2), no thread. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <p2pd.h>

/* A pipe, with the bytes that came in and go back. */
struct echo {
    uint64_t pipe;
    char bytes[16384];
    size_t start, end;
    struct echo *next;
};

static struct echo *echoes;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "echo: %s: %s\n", what, why);
    exit(1);
}

/* Moves what can be moved. Returns 0 once the pipe is over. */
static int turn_round(p2pd_node *node, struct echo *echo) {
    for (;;) {
        size_t n;
        p2pd_status status;
        while (echo->start < echo->end) {
            status = p2pd_pipe_write(node, echo->pipe, echo->bytes + echo->start, echo->end - echo->start, &n);
            if (status != P2PD_OK)
                return status == P2PD_AGAIN; /* P2PD_EVENT_PIPE_WRITABLE comes */
            echo->start += n;
        }
        status = p2pd_pipe_read(node, echo->pipe, echo->bytes, sizeof echo->bytes, &n);
        if (status == P2PD_END)
            p2pd_pipe_shutdown(node, echo->pipe);
        if (status != P2PD_OK)
            return status == P2PD_AGAIN; /* P2PD_EVENT_PIPE_READABLE comes */
        echo->start = 0, echo->end = n;
    }
}

static void on_event(p2pd_node *node, const p2pd_event *event) {
    switch (event->kind) {
    case P2PD_EVENT_READY:
        printf("%s\n", event->text);
        fflush(stdout);
        break;
    case P2PD_EVENT_INCOMING: {
        struct echo *echo = calloc(1, sizeof *echo);
        if (!echo)
            fail("memory", "none left");
        echo->pipe = event->pipe;
        echo->next = echoes;
        echoes = echo;
        break;
    }
    case P2PD_EVENT_PIPE_READABLE:
    case P2PD_EVENT_PIPE_WRITABLE:
        for (struct echo **at = &echoes; *at; at = &(*at)->next) {
            struct echo *echo = *at;
            if (echo->pipe != event->pipe)
                continue;
            if (!turn_round(node, echo)) {
                p2pd_pipe_close(node, echo->pipe);
                *at = echo->next;
                free(echo);
            }
            break;
        }
        break;
    }
}

int main(int argc, char **argv) {
    p2pd_config *config;
    p2pd_node *node;
    int fd;
    if (p2pd_config_new(&config) != P2PD_OK)
        fail("configuration", "not to be had");
    for (int n = 1; n + 1 < argc; n += 2) {
        p2pd_status status = !strcmp(argv[n], "--bind")      ? p2pd_config_bind(config, argv[n + 1])
                             : !strcmp(argv[n], "--servers") ? p2pd_config_servers_file(config, argv[n + 1])
                                                             : P2PD_ERR_ARGUMENT;
        if (status != P2PD_OK)
            fail(argv[n], p2pd_config_error(config));
    }
    if (p2pd_node_open(config, &node) != P2PD_OK)
        fail("node", p2pd_config_error(config));
    p2pd_config_free(config);
    p2pd_node_fd(node, &fd);

    for (;;) {
        p2pd_event event = {.size = sizeof event};
        while (p2pd_node_next_event(node, &event) == P2PD_OK)
            on_event(node, &event);
        int32_t timeout = -1;
        p2pd_node_timeout(node, &timeout);
        poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, timeout);
        if (p2pd_node_turn(node, 0) != P2PD_OK)
            fail("turn", p2pd_node_error(node));
    }
}
