/* A chat in a libuv loop: chat_uv IP waits for a friend and prints its address, chat_uv IP ADDRESS calls one.
 * The node is a poll handle and a timer of the loop, beside the handles of standard input. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include <p2pd.h>

static p2pd_node *node;
static uv_poll_t node_ready;
static uv_timer_t node_time;
static uv_pipe_t input;
static uint64_t friend_pipe;
/* Lines that the pipe has not taken yet. */
static char *waiting;
static size_t waiting_size;
static int said_all, heard_all, is_caller;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "chat_uv: %s: %s\n", what, why);
    exit(1);
}

static void say(void) {
    while (friend_pipe && waiting_size) {
        size_t n;
        p2pd_status status = p2pd_pipe_write(node, friend_pipe, waiting, waiting_size, &n);
        if (status < 0)
            fail("write", p2pd_node_error(node));
        memmove(waiting, waiting + n, waiting_size -= n);
        if (status == P2PD_AGAIN)
            return; /* P2PD_EVENT_PIPE_WRITABLE comes */
    }
    if (friend_pipe && said_all)
        p2pd_pipe_shutdown(node, friend_pipe);
}

static void hear(void) {
    char bytes[4096];
    size_t n;
    p2pd_status status;
    while ((status = p2pd_pipe_read(node, friend_pipe, bytes, sizeof bytes, &n)) == P2PD_OK)
        fwrite(bytes, 1, n, stdout);
    fflush(stdout);
    if (status < 0)
        fail("read", p2pd_node_error(node));
    heard_all |= status == P2PD_END;
}

static void served(uv_timer_t *);

/* Takes the events, and sets the timer to the node's next deadline. */
static void serve(void) {
    p2pd_event event = {.size = sizeof event};
    int32_t timeout;
    if (p2pd_node_turn(node, 0) != P2PD_OK)
        fail("turn", p2pd_node_error(node));
    while (p2pd_node_next_event(node, &event) == P2PD_OK)
        switch (event.kind) {
        case P2PD_EVENT_READY:
            if (!is_caller)
                printf("%s\n", event.text), fflush(stdout);
            break;
        case P2PD_EVENT_NOT_OPENED: fail("no connection", event.text); break;
        case P2PD_EVENT_OPENED:
        case P2PD_EVENT_INCOMING:
            if (friend_pipe)
                p2pd_pipe_close(node, event.pipe);
            else
                friend_pipe = event.pipe, say();
            break;
        case P2PD_EVENT_PIPE_READABLE: hear(); break;
        case P2PD_EVENT_PIPE_WRITABLE: say(); break;
        case P2PD_EVENT_CLOSED:
            uv_close((uv_handle_t *)&node_ready, NULL);
            uv_close((uv_handle_t *)&node_time, NULL);
            uv_close((uv_handle_t *)&input, NULL);
            return;
        }
    if (said_all && heard_all && friend_pipe && !waiting_size) {
        p2pd_pipe_close(node, friend_pipe);
        p2pd_node_shutdown(node);
        friend_pipe = 0;
    }
    p2pd_node_timeout(node, &timeout);
    if (timeout >= 0)
        uv_timer_start(&node_time, served, (uint64_t)timeout, 0);
    else
        uv_timer_stop(&node_time);
}

static void served(uv_timer_t *timer) {
    (void)timer;
    serve();
}

static void readable(uv_poll_t *handle, int status, int events) {
    (void)handle, (void)status, (void)events;
    serve();
}

static void room(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
    static char bytes[4096];
    (void)handle, (void)size;
    *buffer = uv_buf_init(bytes, sizeof bytes);
}

static void typed(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    if (n < 0) {
        uv_read_stop(stream);
        said_all = 1;
    } else if (n > 0) {
        if (!(waiting = realloc(waiting, waiting_size + (size_t)n)))
            fail("memory", "none left");
        memcpy(waiting + waiting_size, buffer->base, (size_t)n);
        waiting_size += (size_t)n;
    }
    say();
    /* The pipe may be over by that. */
    p2pd_node_wake(node);
}

int main(int argc, char **argv) {
    p2pd_config *config;
    uint64_t call;
    int fd;
    uv_loop_t *loop = uv_default_loop();
    if (argc < 2)
        fail("usage", "chat_uv IP [ADDRESS]");
    if (p2pd_config_new(&config) != P2PD_OK || p2pd_config_bind(config, argv[1]) != P2PD_OK ||
        p2pd_node_open(config, &node) != P2PD_OK)
        fail("node", p2pd_config_error(config));
    p2pd_config_free(config);
    is_caller = argc > 2;
    if (is_caller && p2pd_node_connect(node, argv[2], NULL, &call) != P2PD_OK)
        fail(argv[2], p2pd_node_error(node));
    if (p2pd_node_fd(node, &fd) != P2PD_OK)
        fail("descriptor", p2pd_node_error(node));

    uv_poll_init(loop, &node_ready, fd);
    uv_poll_start(&node_ready, UV_READABLE, readable);
    uv_timer_init(loop, &node_time);
    uv_pipe_init(loop, &input, 0);
    uv_pipe_open(&input, 0);
    uv_read_start((uv_stream_t *)&input, room, typed);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_loop_close(loop);
    p2pd_node_free(node);
    free(waiting);
    return 0;
}
