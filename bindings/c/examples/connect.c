/* Sends standard input to a peer and prints what comes back: connect ADDRESS [--bind IP] [--servers FILE]. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <p2pd.h>

static void fail(const char *what, const char *why) {
    fprintf(stderr, "connect: %s: %s\n", what, why);
    exit(1);
}

static p2pd_node *node;
static uint64_t pipe_id;
/* Bytes of standard input that wait, and whether more come. */
static char input[16384];
static size_t start, end;
static int input_ended, shut, over;

/* Takes lines in as long as the pipe takes them: what is not read yet waits where it comes from. */
static void send_input(int readable) {
    for (;;) {
        size_t n = 0;
        if (start == end && !input_ended && readable) {
            ssize_t got = read(STDIN_FILENO, input, sizeof input);
            if (got < 0 && (errno == EAGAIN || errno == EINTR))
                return;
            input_ended = got <= 0;
            start = 0, end = got > 0 ? (size_t)got : 0;
            readable = 0;
        }
        if (start == end) {
            if (input_ended && !shut) {
                p2pd_pipe_shutdown(node, pipe_id);
                shut = 1;
            }
            return;
        }
        p2pd_status status = p2pd_pipe_write(node, pipe_id, input + start, end - start, &n);
        if (status < 0)
            fail("write", p2pd_node_error(node));
        start += n;
        if (start < end)
            return;
    }
}

static void print_answer(void) {
    char bytes[16384];
    size_t n;
    p2pd_status status;
    while ((status = p2pd_pipe_read(node, pipe_id, bytes, sizeof bytes, &n)) == P2PD_OK)
        fwrite(bytes, 1, n, stdout);
    fflush(stdout);
    if (status < 0)
        fail("read", p2pd_node_error(node));
    over = status == P2PD_END;
}

int main(int argc, char **argv) {
    p2pd_config *config;
    p2pd_plan plan = {.size = sizeof plan}; /* all zero: every strategy, encrypted, 20 s */
    uint64_t call;
    int fd;
    if (argc < 2)
        fail("usage", "connect ADDRESS [--bind IP] [--servers FILE]");
    if (p2pd_config_new(&config) != P2PD_OK)
        fail("configuration", "not to be had");
    for (int n = 2; n + 1 < argc; n += 2) {
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
    if (p2pd_node_connect(node, argv[1], &plan, &call) != P2PD_OK)
        fail(argv[1], p2pd_node_error(node));

    while (!(over && shut)) {
        p2pd_event event = {.size = sizeof event};
        while (p2pd_node_next_event(node, &event) == P2PD_OK)
            switch (event.kind) {
            case P2PD_EVENT_OPENED: pipe_id = event.pipe; break;
            case P2PD_EVENT_NOT_OPENED: fail("no connection", event.text); break;
            case P2PD_EVENT_PIPE_READABLE: print_answer(); break;
            case P2PD_EVENT_PIPE_WRITABLE: send_input(0); break;
            }
        int32_t timeout = -1;
        p2pd_node_timeout(node, &timeout);
        int wants_input = pipe_id && start == end && !input_ended;
        struct pollfd fds[] = {{.fd = fd, .events = POLLIN},
                               {.fd = wants_input ? STDIN_FILENO : -1, .events = POLLIN}};
        poll(fds, 2, over ? 0 : timeout);
        if (p2pd_node_turn(node, 0) != P2PD_OK)
            fail("turn", p2pd_node_error(node));
        if (pipe_id)
            send_input(fds[1].revents != 0);
    }
    p2pd_pipe_close(node, pipe_id);
    p2pd_node_shutdown(node);
    for (int closed = 0; !closed;) {
        p2pd_event event = {.size = sizeof event};
        p2pd_node_turn(node, 100);
        while (p2pd_node_next_event(node, &event) == P2PD_OK)
            closed |= event.kind == P2PD_EVENT_CLOSED;
    }
    p2pd_node_free(node);
    return 0;
}
