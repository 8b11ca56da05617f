/* Tests of the library in C, each alone by its name: check CASE SERVER-LIST. Two nodes on loopback in one poll(2). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <p2pd.h>

#define CHECK(is)                                                                                                      \
    do {                                                                                                               \
        if (!(is)) {                                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #is, what);                                         \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define OK(node, call) done(node, call, #call, __LINE__)

static const char *what = "";
static const char *list;

static void done(p2pd_node *node, p2pd_status status, const char *call, int line) {
    if (status != P2PD_OK) {
        fprintf(stderr, "%s:%d: %s is %d, %s: %s\n", what, line, call, status, p2pd_status_text(status),
                p2pd_node_error(node));
        exit(1);
    }
}

/* Seconds that anything may take, also under valgrind. */
enum { PATIENCE = 60, NODES = 2 };

/* A node, and what was heard of it. */
struct end {
    p2pd_node *node;
    int fd;
    uint64_t call, pipe, session;
    uint32_t streams[2];
    int incoming, opened, not_opened, readable, writable, asked, closed, session_ended, ready, brokers, datagrams,
        stopped, delivered, looked_up, stream_readable, stream_writable;
    p2pd_status status;
    uint32_t code;
    char text[4096], peer[64], host[64];
    uint64_t query;
};

static struct end ends[NODES];

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static p2pd_config *config(void) {
    p2pd_config *config;
    CHECK(p2pd_config_new(&config) == P2PD_OK);
    CHECK(p2pd_config_bind(config, "127.0.0.1") == P2PD_OK);
    return config;
}

static void open_end(struct end *end, p2pd_config *config) {
    memset(end, 0, sizeof *end);
    if (p2pd_node_open(config, &end->node) != P2PD_OK) {
        fprintf(stderr, "%s: %s\n", what, p2pd_config_error(config));
        exit(1);
    }
    p2pd_config_free(config);
    OK(end->node, p2pd_node_fd(end->node, &end->fd));
}

static void note(struct end *end, const p2pd_event *event) {
    CHECK(event->text && strlen(event->text) <= event->text_size);
    snprintf(end->text, sizeof end->text, "%s", event->text);
    switch (event->kind) {
    case P2PD_EVENT_READY: end->ready++; break;
    case P2PD_EVENT_BROKER: end->brokers += event->status == P2PD_OK; break;
    case P2PD_EVENT_OPENED:
        CHECK(event->call == end->call);
        end->opened++, end->pipe = event->pipe;
        break;
    case P2PD_EVENT_NOT_OPENED:
    case P2PD_EVENT_SESSION_NOT_OPENED: end->not_opened++, end->status = event->status; break;
    case P2PD_EVENT_INCOMING: end->incoming++, end->pipe = event->pipe; break;
    case P2PD_EVENT_PIPE_READABLE: end->readable++; break;
    case P2PD_EVENT_PIPE_WRITABLE: end->writable++; break;
    case P2PD_EVENT_ASK:
        end->asked++;
        snprintf(end->peer, sizeof end->peer, "%s", event->text);
        break;
    case P2PD_EVENT_SESSION_OPENED:
        CHECK(event->session == end->session);
        end->opened++;
        break;
    case P2PD_EVENT_SESSION_INCOMING: end->incoming++, end->session = event->session; break;
    case P2PD_EVENT_STREAM_INCOMING: end->streams[event->code] = event->stream; break;
    case P2PD_EVENT_STREAM_READABLE: end->stream_readable++; break;
    case P2PD_EVENT_STREAM_WRITABLE: end->stream_writable++; break;
    case P2PD_EVENT_STREAM_STOPPED: end->stopped++, end->code = event->code; break;
    case P2PD_EVENT_SESSION_DATAGRAM: end->datagrams++; break;
    case P2PD_EVENT_SESSION_DELIVERED: end->delivered++; break;
    case P2PD_EVENT_SESSION_ENDED: end->session_ended++, end->code = event->code; break;
    case P2PD_EVENT_LOOK_UP:
        end->looked_up++, end->query = event->query;
        snprintf(end->host, sizeof end->host, "%s", event->text);
        break;
    case P2PD_EVENT_CLOSED: end->closed++; break;
    default: break;
    }
}

/* One turn of the loop, of `most` ms at most. */
static void turn(int most) {
    struct pollfd fds[NODES];
    for (int n = 0; n < NODES; n++) {
        int32_t timeout;
        fds[n] = (struct pollfd){.fd = ends[n].node ? ends[n].fd : -1, .events = POLLIN};
        if (ends[n].node) {
            OK(ends[n].node, p2pd_node_timeout(ends[n].node, &timeout));
            if (timeout >= 0 && timeout < most)
                most = timeout;
        }
    }
    CHECK(poll(fds, NODES, most) >= 0 || errno == EINTR);
    for (int n = 0; n < NODES; n++) {
        p2pd_event event = {.size = sizeof event};
        if (!ends[n].node)
            continue;
        OK(ends[n].node, p2pd_node_turn(ends[n].node, 0));
        p2pd_status status;
        while ((status = p2pd_node_next_event(ends[n].node, &event)) == P2PD_OK)
            note(&ends[n], &event);
        CHECK(status == P2PD_AGAIN);
    }
}

#define UNTIL(is)                                                                                                      \
    do {                                                                                                               \
        double until = now() + PATIENCE;                                                                               \
        while (!(is)) {                                                                                                \
            if (now() > until)                                                                                         \
                fprintf(stderr, "never; last: %s | %s\n", ends[0].text, ends[1].text);                                 \
            CHECK((is) || now() <= until);                                                                             \
            turn(1000);                                                                                                \
        }                                                                                                              \
    } while (0)

static const char *address_of(struct end *end) {
    static char address[2048];
    size_t length;
    p2pd_status status;
    UNTIL((status = p2pd_node_address(end->node, address, sizeof address, &length)) != P2PD_AGAIN);
    OK(end->node, status);
    CHECK(length == strlen(address));
    return address;
}

static void call(const p2pd_plan *plan) {
    OK(ends[0].node, p2pd_node_connect(ends[0].node, address_of(&ends[1]), plan, &ends[0].call));
    UNTIL((ends[0].opened && ends[1].incoming) || ends[0].not_opened);
}

static void free_all(void) {
    for (int n = 0; n < NODES; n++)
        p2pd_node_free(ends[n].node), ends[n].node = NULL;
}

static void end_all(void) {
    for (int n = 0; n < NODES; n++)
        OK(ends[n].node, p2pd_node_shutdown(ends[n].node));
    UNTIL(ends[0].closed && ends[1].closed);
    free_all();
}

static unsigned char byte_at(size_t n, unsigned salt) { return (unsigned char)((n * 31 + (n >> 8) * 7 + salt) & 0xff); }

/* Sends `size` bytes each way at once and compares every one; then each end ends its direction. */
static void exchange(size_t size) {
    static unsigned char buffer[70000];
    size_t sent[2] = {0, 0}, got[2] = {0, 0};
    int ended[2] = {0, 0}, over[2] = {0, 0};
    double until = now() + PATIENCE;
    while (!(over[0] && over[1] && ended[0] && ended[1])) {
        CHECK(now() < until);
        for (int n = 0; n < 2; n++) {
            size_t taken, part;
            p2pd_status status = P2PD_OK;
            while (sent[n] < size && status == P2PD_OK) {
                part = size - sent[n] < sizeof buffer ? size - sent[n] : sizeof buffer;
                for (size_t at = 0; at < part; at++)
                    buffer[at] = byte_at(sent[n] + at, (unsigned)n);
                status = p2pd_pipe_write(ends[n].node, ends[n].pipe, buffer, part, &taken);
                CHECK(status == P2PD_OK || status == P2PD_AGAIN);
                CHECK(taken <= part && (taken > 0) == (status == P2PD_OK));
                sent[n] += taken;
                if (taken < part)
                    break;
            }
            if (sent[n] == size && !ended[n]) {
                OK(ends[n].node, p2pd_pipe_shutdown(ends[n].node, ends[n].pipe));
                OK(ends[n].node, p2pd_pipe_shutdown(ends[n].node, ends[n].pipe));
                CHECK(p2pd_pipe_write(ends[n].node, ends[n].pipe, "x", 1, &taken) == P2PD_ERR_CLOSED);
                ended[n] = 1;
            }
            while (!over[n]) {
                status = p2pd_pipe_read(ends[n].node, ends[n].pipe, buffer, sizeof buffer, &part);
                if (status == P2PD_AGAIN)
                    break;
                if (status == P2PD_END) {
                    CHECK(part == 0 && got[n] == size);
                    over[n] = 1;
                    continue;
                }
                OK(ends[n].node, status);
                for (size_t at = 0; at < part; at++)
                    CHECK(buffer[at] == byte_at(got[n] + at, (unsigned)!n));
                got[n] += part;
            }
        }
        turn(1000);
    }
}

/* A reader that had nothing is told of each word that comes, and by nothing else. */
static void words(void) {
    for (int round = 0; round < 4; round++) {
        struct end *reads = &ends[round % 2], *writes = &ends[!(round % 2)];
        char word[8];
        size_t n;
        CHECK(p2pd_pipe_read(reads->node, reads->pipe, word, sizeof word, &n) == P2PD_AGAIN && n == 0);
        for (int turns = 0; turns < 3; turns++)
            turn(0);
        int before = reads->readable;
        OK(writes->node, p2pd_pipe_write(writes->node, writes->pipe, "word", 4, &n));
        CHECK(n == 4);
        UNTIL(reads->readable > before);
        CHECK(reads->readable == before + 1);
        OK(reads->node, p2pd_pipe_read(reads->node, reads->pipe, word, sizeof word, &n));
        CHECK(n == 4 && !memcmp(word, "word", 4));
    }
}

static void close_pipes(void) {
    for (int n = 0; n < NODES; n++) {
        OK(ends[n].node, p2pd_pipe_close(ends[n].node, ends[n].pipe));
        CHECK(p2pd_pipe_close(ends[n].node, ends[n].pipe) == P2PD_ERR_UNKNOWN);
    }
}

static void pipes(int servers, const p2pd_plan *plan, unsigned strategy, size_t size) {
    char id[64];
    for (int n = 0; n < NODES; n++) {
        p2pd_config *settings = config();
        CHECK(p2pd_config_allow_plain(settings, true) == P2PD_OK);
        /* For strangers nothing is sent to private addresses, of which loopback is one. */
        if (servers && n == 1)
            CHECK(p2pd_config_accept_peer(settings, id) == P2PD_OK);
        if (servers && p2pd_config_servers_file(settings, list) != P2PD_OK) {
            fprintf(stderr, "%s\n", p2pd_config_error(settings));
            exit(1);
        }
        open_end(&ends[n], settings);
        OK(ends[n].node, p2pd_node_id(ends[n].node, id, sizeof id, NULL));
    }
    if (servers)
        UNTIL(ends[0].brokers && ends[1].brokers);
    call(plan);
    if (ends[0].not_opened)
        fprintf(stderr, "%s\n", ends[0].text);
    CHECK(!ends[0].not_opened);
    p2pd_pipe_info info[2] = {{.size = sizeof info[0]}, {.size = sizeof info[0]}};
    for (int n = 0; n < NODES; n++) {
        OK(ends[n].node, p2pd_pipe_get_info(ends[n].node, ends[n].pipe, &info[n]));
        OK(ends[!n].node, p2pd_node_id(ends[!n].node, id, sizeof id, NULL));
        CHECK(!strcmp(info[n].peer, id) && info[n].strategy == strategy && info[n].size == sizeof info[n]);
        CHECK(info[n].mode == (plan ? plan->mode : 0) && !strncmp(info[n].remote, "127.0.0.1:", 10));
        CHECK(!strcmp(info[n].protocol, plan && plan->protocol ? plan->protocol : ""));
    }
    CHECK(info[1].named == (uint32_t)servers && info[0].elapsed_us > 0);
    words();
    exchange(size);
    close_pipes();
    end_all();
}

/* Bytes of the long transfers: fewer under valgrind. */
static size_t many(void) {
    const char *bytes = getenv("MANY");
    return bytes ? (size_t)atol(bytes) : 3000000;
}

static void encrypted(void) { pipes(0, NULL, P2PD_DIRECT, many()); }

static void plain(void) {
    p2pd_plan plan = {.size = sizeof plan, .mode = P2PD_PLAIN, .protocol = "check/1"};
    pipes(0, &plan, P2PD_DIRECT, many());
}

static void reverse(void) {
    p2pd_plan plan = {.size = sizeof plan, .strategies = {P2PD_REVERSE}};
    pipes(1, &plan, P2PD_REVERSE, many() / 10);
}

static void relay(void) {
    p2pd_plan plan = {.size = sizeof plan, .strategies = {P2PD_RELAY}};
    pipes(1, &plan, P2PD_RELAY, many() / 10);
}

/* What is wrong is said, and changes nothing. */
static void errors(void) {
    p2pd_config *settings;
    p2pd_node *node = (p2pd_node *)&settings;
    CHECK(p2pd_config_new(NULL) == P2PD_ERR_NULL && p2pd_config_port(NULL, 1) == P2PD_ERR_NULL);
    CHECK(p2pd_config_new(&settings) == P2PD_OK && !*p2pd_config_error(settings));
    CHECK(p2pd_config_bind(settings, "localhost") == P2PD_ERR_ARGUMENT && *p2pd_config_error(settings));
    CHECK(p2pd_config_bind(settings, NULL) == P2PD_ERR_NULL);
    CHECK(p2pd_config_bind(settings, "\xff") == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_config_bind(settings, "127.0.0.1") == P2PD_OK);
    CHECK(p2pd_config_key(settings, (const uint8_t *)"short", 5) == P2PD_ERR_KEY);
    CHECK(p2pd_config_key(settings, NULL, 32) == P2PD_ERR_NULL);
    CHECK(p2pd_config_key_file(settings, list) == P2PD_ERR_KEY);
    CHECK(p2pd_config_servers_text(settings, "[[broker]]\nnothing = 1\n") == P2PD_ERR_SERVERS);
    CHECK(p2pd_config_servers_file(settings, "/nonexistent") == P2PD_ERR_SERVERS);
    CHECK(strstr(p2pd_config_error(settings), "/nonexistent"));
    CHECK(p2pd_config_public_servers(settings) == P2PD_ERR_SERVERS);
    CHECK(p2pd_config_accept_peer(settings, "nobody") == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_config_add_protocol(settings, "") == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_config_add_turn(settings, "127.0.0.1", 1, "user", NULL) == P2PD_ERR_NULL);
    CHECK(p2pd_node_open(NULL, &node) == P2PD_ERR_NULL);
    CHECK(p2pd_node_open(settings, NULL) == P2PD_ERR_NULL);
    CHECK(p2pd_config_add_broker(settings, 1, "127.0.0.1", 0) == P2PD_OK);
    CHECK(p2pd_node_open(settings, &node) == P2PD_ERR_OPEN && node == NULL);
    CHECK(strstr(p2pd_config_error(settings), "broker"));
    p2pd_config_free(settings);
    p2pd_config_free(NULL);
    p2pd_node_free(NULL);

    settings = config();
    const uint8_t key[32] = {7, 1};
    CHECK(p2pd_config_key(settings, key, sizeof key) == P2PD_OK);
    open_end(&ends[0], settings);
    open_end(&ends[1], config());
    node = ends[0].node;
    char text[2048], id[64];
    size_t length = 0, n;
    uint64_t call;
    int fd;
    CHECK(p2pd_node_fd(NULL, &fd) == P2PD_ERR_NULL && p2pd_node_fd(node, NULL) == P2PD_ERR_NULL);
    CHECK(p2pd_node_turn(NULL, 0) == P2PD_ERR_NULL && p2pd_node_next_event(node, NULL) == P2PD_ERR_NULL);
    CHECK(!*p2pd_node_error(NULL) && p2pd_node_wake(NULL) == P2PD_ERR_NULL);
    p2pd_event event = {.size = 3};
    CHECK(p2pd_node_next_event(node, &event) == P2PD_ERR_SIZE && strstr(p2pd_node_error(node), "3"));
    /* The buffer is a byte too small, then just right; the text around it is left alone. */
    memset(id, '#', sizeof id);
    CHECK(p2pd_node_id(node, id, 52, &length) == P2PD_ERR_BUFFER && length == 52 && id[0] == '#');
    CHECK(p2pd_node_id(node, NULL, 0, &length) == P2PD_ERR_BUFFER);
    CHECK(p2pd_node_id(node, NULL, 10, &length) == P2PD_ERR_NULL);
    CHECK(p2pd_node_id(node, id, 53, NULL) == P2PD_OK && strlen(id) == 52 && id[53] == '#');

    CHECK(p2pd_node_connect(node, "nonsense", NULL, &call) == P2PD_ERR_ADDRESS && *p2pd_node_error(node));
    CHECK(p2pd_node_connect(node, NULL, NULL, &call) == P2PD_ERR_NULL);
    snprintf(text, sizeof text, "%s", address_of(&ends[1]));
    CHECK(p2pd_node_connect(node, text, NULL, NULL) == P2PD_ERR_NULL);
    p2pd_plan plan = {.size = sizeof plan, .mode = 9};
    CHECK(p2pd_node_connect(node, text, &plan, &call) == P2PD_ERR_ARGUMENT);
    plan = (p2pd_plan){.size = sizeof plan, .strategies = {9}};
    CHECK(p2pd_node_connect(node, text, &plan, &call) == P2PD_ERR_ARGUMENT);
    plan = (p2pd_plan){.size = 0};
    CHECK(p2pd_node_connect(node, text, &plan, &call) == P2PD_ERR_SIZE);
    CHECK(p2pd_pipe_read(node, 77, text, sizeof text, &n) == P2PD_ERR_UNKNOWN && n == 0);
    CHECK(p2pd_pipe_write(node, 0, "x", 1, &n) == P2PD_ERR_UNKNOWN);
    CHECK(p2pd_pipe_shutdown(node, 1) == P2PD_ERR_UNKNOWN && p2pd_node_cancel(node, 1) == P2PD_ERR_UNKNOWN);
    CHECK(p2pd_session_close(node, 0, 0, NULL) == P2PD_ERR_UNKNOWN);
    CHECK(p2pd_session_close(node, 5, 0, NULL) == P2PD_ERR_UNKNOWN);
    CHECK(p2pd_node_resolved(node, 1, "127.0.0.1") == P2PD_ERR_UNKNOWN);
    CHECK(p2pd_node_resolved(node, 1, "localhost") == P2PD_ERR_ARGUMENT);
    for (int32_t status = P2PD_ERR_ENDED; status <= P2PD_END; status++)
        CHECK(strcmp(p2pd_status_text(status), "unknown status"));
    CHECK(!strcmp(p2pd_status_text(-999), "unknown status") && *p2pd_version() == '0');

    /* Another node's id behind the right address: nobody there can prove to be that one. */
    snprintf(text, sizeof text, "%s", address_of(&ends[1]));
    OK(node, p2pd_node_id(node, strrchr(text, '-') + 1, 60, NULL));
    p2pd_config *other = config();
    p2pd_node *third;
    CHECK(p2pd_node_open(other, &third) == P2PD_OK);
    OK(third, p2pd_node_id(third, strrchr(text, '-') + 1, 60, NULL));
    p2pd_node_free(third), p2pd_config_free(other);
    plan = (p2pd_plan){.size = sizeof plan, .timeout_ms = 5000};
    OK(node, p2pd_node_connect(node, text, &plan, &ends[0].call));
    UNTIL(ends[0].not_opened);
    CHECK((ends[0].status == P2PD_ERR_FAILED || ends[0].status == P2PD_ERR_DEADLINE) && strstr(ends[0].text, "direct"));
    CHECK(!ends[1].incoming);
    /* Plain where it is not allowed. */
    plan = (p2pd_plan){.size = sizeof plan, .mode = P2PD_PLAIN};
    ends[0].not_opened = 0;
    OK(node, p2pd_node_connect(node, address_of(&ends[1]), &plan, &ends[0].call));
    UNTIL(ends[0].not_opened);
    CHECK(ends[0].status == P2PD_ERR_REFUSED && strstr(ends[0].text, "encrypted"));
    /* A read without room, and a write of nothing, on a pipe that there is. */
    ends[0].opened = 0;
    ends[0].not_opened = 0;
    OK(node, p2pd_node_connect(node, address_of(&ends[1]), NULL, &ends[0].call));
    UNTIL(ends[0].opened && ends[1].incoming);
    CHECK(p2pd_pipe_read(node, ends[0].pipe, text, 0, &n) == P2PD_ERR_BUFFER);
    CHECK(p2pd_pipe_read(node, ends[0].pipe, text, (size_t)-1, &n) == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_pipe_read(node, ends[0].pipe, text, 1, NULL) == P2PD_ERR_NULL);
    CHECK(p2pd_pipe_read(node, ends[0].pipe, text, 1, &n) == P2PD_AGAIN && n == 0);
    CHECK(p2pd_pipe_write(node, ends[0].pipe, NULL, 0, &n) == P2PD_OK && n == 0);
    CHECK(p2pd_pipe_write(node, ends[0].pipe, NULL, 1, &n) == P2PD_ERR_NULL);
    CHECK(p2pd_pipe_take_fd(node, ends[0].pipe, &fd) == P2PD_ERR_UNSUPPORTED);
    CHECK(p2pd_node_cancel(node, ends[0].call) == P2PD_ERR_UNKNOWN);
    /* With a pipe open, and without a word. */
    free_all();
}

/* A call that is given up says nothing more, and a deadline ends one that nobody answers. */
static void cancel(void) {
    open_end(&ends[0], config());
    open_end(&ends[1], config());
    char to[2048];
    snprintf(to, sizeof to, "%s", address_of(&ends[1]));
    /* The other end listens, and is not served. */
    struct end silent = ends[1];
    ends[1].node = NULL;
    p2pd_plan plan = {.size = sizeof plan, .timeout_ms = 600};
    uint64_t given_up;
    OK(ends[0].node, p2pd_node_connect(ends[0].node, to, &plan, &given_up));
    for (double until = now() + 0.1; now() < until;)
        turn(20);
    OK(ends[0].node, p2pd_node_cancel(ends[0].node, given_up));
    CHECK(p2pd_node_cancel(ends[0].node, given_up) == P2PD_ERR_UNKNOWN);
    double began = now();
    OK(ends[0].node, p2pd_node_connect(ends[0].node, to, &plan, &ends[0].call));
    CHECK(ends[0].call != given_up);
    UNTIL(ends[0].not_opened);
    CHECK(ends[0].status == P2PD_ERR_DEADLINE && ends[0].not_opened == 1 && now() - began > 0.5);
    /* Opened at the same time as given up: no event of it either. */
    ends[1] = silent;
    ends[0].not_opened = 0;
    OK(ends[0].node, p2pd_node_connect(ends[0].node, to, NULL, &given_up));
    double until = now() + PATIENCE;
    while (!ends[1].incoming) {
        CHECK(now() < until);
        OK(ends[0].node, p2pd_node_turn(ends[0].node, 10));
        struct end first = ends[0];
        ends[0].node = NULL;
        turn(10);
        ends[0] = first;
    }
    for (int n = 0; n < 5; n++)
        OK(ends[0].node, p2pd_node_turn(ends[0].node, 10));
    OK(ends[0].node, p2pd_node_cancel(ends[0].node, given_up));
    for (int n = 0; n < 10; n++)
        turn(20);
    CHECK(!ends[0].opened && !ends[0].not_opened);
    end_all();
}

/* A peer that closes in the middle is an error and no signal. What was shut down before a close arrives all the same. */
static void closes(void) {
    static unsigned char buffer[200000];
    for (int plain = 0; plain < 2; plain++) {
        p2pd_plan plan = {.size = sizeof plan, .mode = plain ? P2PD_PLAIN : P2PD_ENCRYPTED};
        p2pd_config *settings = config();
        CHECK(p2pd_config_allow_plain(settings, true) == P2PD_OK);
        open_end(&ends[0], config());
        open_end(&ends[1], settings);
        call(&plan);
        size_t n, got = 0, sent;
        p2pd_status status = P2PD_OK;
        memset(buffer, 7, sizeof buffer);
        double until = now() + PATIENCE;
        /* Until nothing more goes, as the peer does not read; then it closes. */
        while (status == P2PD_OK) {
            status = p2pd_pipe_write(ends[0].node, ends[0].pipe, buffer, sizeof buffer, &n);
            turn(0);
        }
        CHECK(status == P2PD_AGAIN);
        OK(ends[1].node, p2pd_pipe_close(ends[1].node, ends[1].pipe));
        UNTIL(ends[0].writable > 0);
        UNTIL((status = p2pd_pipe_write(ends[0].node, ends[0].pipe, buffer, sizeof buffer, &n)) < 0);
        CHECK(status == P2PD_ERR_BROKEN && *p2pd_node_error(ends[0].node));
        do
            status = p2pd_pipe_read(ends[0].node, ends[0].pipe, buffer, sizeof buffer, &n), turn(100);
        while (status == P2PD_AGAIN && now() < until);
        /* On a plain pipe the system's end is all there is to read, once its error was told. */
        CHECK(plain ? status < 0 || status == P2PD_END : status == P2PD_ERR_BROKEN);
        OK(ends[0].node, p2pd_pipe_close(ends[0].node, ends[0].pipe));

        ends[0].opened = ends[1].incoming = 0;
        call(&plan);
        /* As much as goes without the peer reading: the last of it waits in the library, and leaves by turns alone. */
        for (int round = 0; round < 2; round++) {
            for (sent = got = 0;
                 (status = p2pd_pipe_write(ends[0].node, ends[0].pipe, buffer, sizeof buffer, &n)) == P2PD_OK;)
                sent += n;
            CHECK(status == P2PD_AGAIN && sent > 0);
            while (round == 0 && got < sent) {
                CHECK(now() < until);
                status = p2pd_pipe_read(ends[1].node, ends[1].pipe, buffer, sizeof buffer, &n);
                CHECK(status == P2PD_OK || status == P2PD_AGAIN);
                got += n;
                turn(status == P2PD_AGAIN ? 100 : 0);
            }
        }
        OK(ends[0].node, p2pd_pipe_shutdown(ends[0].node, ends[0].pipe));
        OK(ends[0].node, p2pd_pipe_close(ends[0].node, ends[0].pipe));
        CHECK(p2pd_pipe_write(ends[0].node, ends[0].pipe, buffer, 1, &n) == P2PD_ERR_UNKNOWN);
        for (;;) {
            CHECK(now() < until);
            status = p2pd_pipe_read(ends[1].node, ends[1].pipe, buffer, sizeof buffer, &n);
            got += n;
            if (status == P2PD_END)
                break;
            CHECK(status == P2PD_OK || status == P2PD_AGAIN);
            if (status == P2PD_AGAIN)
                turn(100);
        }
        CHECK(got == sent);
        free_all();
    }
}

/* The bare socket of a plain pipe. */
static void taken(void) {
    p2pd_plan plan = {.size = sizeof plan, .mode = P2PD_PLAIN};
    for (int n = 0; n < NODES; n++) {
        p2pd_config *settings = config();
        CHECK(p2pd_config_allow_plain(settings, true) == P2PD_OK);
        open_end(&ends[n], settings);
    }
    call(&plan);
    int fds[2];
    for (int n = 0; n < NODES; n++) {
        OK(ends[n].node, p2pd_pipe_take_fd(ends[n].node, ends[n].pipe, &fds[n]));
        CHECK(p2pd_pipe_close(ends[n].node, ends[n].pipe) == P2PD_ERR_UNKNOWN);
    }
    free_all();
    char word[6] = "";
    CHECK(fcntl(fds[1], F_SETFL, 0) == 0);
    CHECK(write(fds[0], "hello", 5) == 5 && read(fds[1], word, 5) == 5 && !strcmp(word, "hello"));
    close(fds[0]), close(fds[1]);
}

/* Sessions: streams in both directions, tags, reset, stop, datagrams, the end with code and reason. */
static void sessions(void) {
    p2pd_config *settings = config();
    CHECK(p2pd_config_allow_sessions(settings, true) == P2PD_OK);
    CHECK(p2pd_config_session_limits(settings, 0, 1 << 20) == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_config_session_limits(settings, 16, 1000) == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_config_session_limits(settings, 64, 4 << 20) == P2PD_OK);
    open_end(&ends[0], config());
    open_end(&ends[1], settings);
    p2pd_node *a = ends[0].node, *b = ends[1].node;
    OK(a, p2pd_session_connect(a, address_of(&ends[1]), NULL, &ends[0].session));
    UNTIL(ends[0].opened && ends[1].incoming);
    uint64_t at = ends[0].session, bt = ends[1].session;
    static unsigned char buffer[50000];
    /* More than a stream queues, so that its writer has to wait. */
    const size_t size = 700000;
    uint32_t both, one;
    size_t n, sent = 0, got = 0;
    p2pd_status status = P2PD_AGAIN;
    OK(a, p2pd_stream_open(a, at, false, "echo/1", 6, &both));
    CHECK(p2pd_stream_open(a, at, false, buffer, 256, &one) == P2PD_ERR_ARGUMENT);
    CHECK(p2pd_stream_read(a, at, 4444, buffer, 1, &n) == P2PD_ERR_CLOSED);
    CHECK(p2pd_stream_read(a, at, both, buffer, 1, &n) == P2PD_AGAIN);
    double until = now() + PATIENCE;
    int finished = 0, echoed = 0;
    size_t back = 0, held = 0;
    static unsigned char echo[50000];
    while (status != P2PD_END) {
        CHECK(now() < until);
        while (sent < size) {
            size_t part = size - sent < sizeof buffer ? size - sent : sizeof buffer;
            for (size_t k = 0; k < part; k++)
                buffer[k] = byte_at(sent + k, 3);
            status = p2pd_stream_write(a, at, both, buffer, part, &n);
            CHECK(status == P2PD_OK || status == P2PD_AGAIN);
            sent += n;
            if (n < part)
                break;
        }
        if (sent == size && !finished)
            OK(a, p2pd_stream_finish(a, at, both)), finished = 1;
        turn(1000);
        {
            /* The listener gives back what comes. */
            while (!echoed) {
                if (held == 0) {
                    status = p2pd_stream_read(b, bt, both, echo, sizeof echo, &held);
                    if (status == P2PD_ERR_CLOSED || status == P2PD_AGAIN)
                        break;
                    if (status == P2PD_END) {
                        OK(b, p2pd_stream_finish(b, bt, both));
                        echoed = 1;
                        break;
                    }
                    OK(b, status);
                }
                status = p2pd_stream_write(b, bt, both, echo, held, &n);
                CHECK(status == P2PD_OK || status == P2PD_AGAIN);
                back += n, held -= n;
                memmove(echo, echo + n, held);
                if (held)
                    break;
            }
        }
        while ((status = p2pd_stream_read(a, at, both, buffer, sizeof buffer, &n)) == P2PD_OK) {
            for (size_t k = 0; k < n; k++)
                CHECK(buffer[k] == byte_at(got + k, 3));
            got += n;
        }
        CHECK(status == P2PD_AGAIN || status == P2PD_END);
    }
    CHECK(got == size && back == size && ends[1].streams[0] == both);
    CHECK(ends[1].stream_readable && ends[0].stream_writable && ends[0].stream_readable);

    OK(b, p2pd_stream_open(b, bt, true, "log\0x", 5, &one));
    OK(b, p2pd_stream_write(b, bt, one, "gone", 4, &n));
    OK(b, p2pd_stream_reset(b, bt, one, 17));
    UNTIL((status = p2pd_stream_read(a, at, one, buffer, 9, &n)) != P2PD_ERR_CLOSED && status != P2PD_AGAIN &&
          status != P2PD_OK);
    CHECK(status == P2PD_ERR_RESET && p2pd_node_error_code(a) == 17 && ends[0].streams[1] == one);
    OK(a, p2pd_stream_open(a, at, true, NULL, 0, &one));
    OK(a, p2pd_stream_priority(a, at, one, 5));
    OK(a, p2pd_stream_write(a, at, one, "x", 1, &n));
    UNTIL(ends[1].streams[1] == one);
    OK(b, p2pd_stream_stop(b, bt, one, 23));
    UNTIL(ends[0].stopped);
    CHECK(ends[0].code == 23 && p2pd_stream_write(a, at, one, "x", 1, &n) == P2PD_ERR_CLOSED);

    OK(a, p2pd_datagram_send(a, at, "ping", 4));
    CHECK(p2pd_datagram_send(a, at, buffer, 1201) == P2PD_ERR_ARGUMENT);
    UNTIL(ends[1].datagrams);
    OK(b, p2pd_datagram_receive(b, bt, buffer, sizeof buffer, &n));
    CHECK(n == 4 && !memcmp(buffer, "ping", 4));
    CHECK(p2pd_datagram_receive(b, bt, buffer, sizeof buffer, &n) == P2PD_AGAIN && n == 0);

    p2pd_session_info info = {.size = sizeof info};
    OK(a, p2pd_session_get_info(a, at, &info));
    CHECK(info.strategy == P2PD_DIRECT && strlen(info.peer) == 52);
    OK(a, p2pd_stream_open(a, at, true, NULL, 0, &one));
    OK(a, p2pd_stream_write(a, at, one, "last", 4, &n));
    if (p2pd_session_delivered(a, at) == P2PD_AGAIN)
        UNTIL(ends[0].delivered);
    CHECK(p2pd_session_delivered(a, at) == P2PD_OK);
    ends[1].text[0] = 0;
    OK(a, p2pd_session_close(a, at, 42, "enough"));
    UNTIL(ends[0].session_ended && ends[1].session_ended);
    CHECK(ends[1].code == 42 && strstr(ends[1].text, "enough"));
    CHECK(p2pd_stream_write(b, bt, both, "x", 1, &n) == P2PD_ERR_ENDED);
    /* What has ended holds nothing, which is no word of its arrival. */
    CHECK(p2pd_session_delivered(a, at) == P2PD_ERR_ENDED);
    CHECK(p2pd_session_delivered(b, bt) == P2PD_ERR_ENDED);
    n = 7;
    CHECK(p2pd_datagram_receive(b, bt, buffer, sizeof buffer, &n) == P2PD_ERR_ENDED && n == 0);
    n = 7;
    CHECK(p2pd_stream_read(NULL, at, both, buffer, sizeof buffer, &n) == P2PD_ERR_NULL && n == 0);
    OK(a, p2pd_session_free(a, at));
    OK(b, p2pd_session_free(b, bt));
    CHECK(p2pd_stream_write(b, bt, both, "x", 1, &n) == P2PD_ERR_UNKNOWN);

    /* The other way round: this node takes no sessions. */
    OK(b, p2pd_session_connect(b, address_of(&ends[0]), NULL, &ends[1].session));
    UNTIL(ends[1].not_opened);
    CHECK(ends[1].status == P2PD_ERR_REFUSED);
    end_all();
}

/* Who may: a question with both answers, and a list. */
static void accepts(void) {
    p2pd_config *settings = config();
    CHECK(p2pd_config_accept_ask(settings) == P2PD_OK);
    open_end(&ends[0], config());
    open_end(&ends[1], settings);
    for (int yes = 0; yes < 2; yes++) {
        ends[0].opened = ends[0].not_opened = ends[1].asked = ends[1].incoming = 0;
        OK(ends[0].node, p2pd_node_connect(ends[0].node, address_of(&ends[1]), NULL, &ends[0].call));
        UNTIL(ends[1].asked);
        CHECK(p2pd_node_answer(ends[1].node, "nobody", true) == P2PD_ERR_ARGUMENT);
        OK(ends[1].node, p2pd_node_answer(ends[1].node, ends[1].peer, yes));
        UNTIL(yes ? ends[0].opened && ends[1].incoming : ends[0].not_opened);
        CHECK(yes || ends[0].status == P2PD_ERR_REFUSED);
    }
    p2pd_node_free(ends[1].node);
    settings = config();
    CHECK(p2pd_config_accept_peer(settings, NULL) == P2PD_OK);
    open_end(&ends[1], settings);
    ends[0].not_opened = 0;
    call(NULL);
    CHECK(ends[0].not_opened && ends[0].status == P2PD_ERR_REFUSED);
    p2pd_node_free(ends[1].node);
    char id[64];
    OK(ends[0].node, p2pd_node_id(ends[0].node, id, sizeof id, NULL));
    settings = config();
    CHECK(p2pd_config_accept_peer(settings, id) == P2PD_OK);
    open_end(&ends[1], settings);
    ends[0].not_opened = ends[0].opened = 0;
    call(NULL);
    CHECK(ends[0].opened);
    p2pd_pipe_info info = {.size = sizeof info};
    OK(ends[1].node, p2pd_pipe_get_info(ends[1].node, ends[1].pipe, &info));
    CHECK(info.named == 1 && !strcmp(info.peer, id));
    free_all();
}

/* Names that the user looks up, and that the library does. */
static void names(void) {
    for (int own = 0; own < 2; own++) {
        p2pd_config *settings = config();
        CHECK(p2pd_config_own_names(settings, own) == P2PD_OK);
        CHECK(p2pd_config_add_broker(settings, 7, "localhost", (uint16_t)atoi(getenv("BROKER_PORT"))) == P2PD_OK);
        CHECK(p2pd_config_add_stun(settings, "127.0.0.1", (uint16_t)atoi(getenv("STUN_PORT"))) == P2PD_OK);
        open_end(&ends[0], settings);
        if (own) {
            UNTIL(ends[0].looked_up);
            CHECK(!strcmp(ends[0].host, "localhost"));
            OK(ends[0].node, p2pd_node_resolved(ends[0].node, ends[0].query, "127.0.0.1"));
        }
        UNTIL(ends[0].brokers);
        CHECK(ends[0].looked_up == own);
        OK(ends[0].node, p2pd_node_shutdown(ends[0].node));
        UNTIL(ends[0].closed);
        free_all();
    }
}

static int readable(void) {
    struct pollfd fd = {.fd = ends[0].fd, .events = POLLIN};
    CHECK(poll(&fd, 1, 0) >= 0);
    return fd.revents == POLLIN;
}

/* Turns until the first node has nothing to do. */
static void rest(void) {
    for (int quiet = 0; quiet < 5;) {
        turn(20);
        quiet = readable() ? 0 : quiet + 1;
    }
}

static p2pd_status of_thread[2];
static atomic_int woken;

static void *other_thread(void *node) {
    usleep(300000);
    int32_t timeout;
    of_thread[0] = p2pd_node_timeout(node, &timeout);
    atomic_store(&woken, 1);
    of_thread[1] = p2pd_node_wake(node);
    return NULL;
}

/* The node waits by itself, and another thread ends that. */
static void threads(void) {
    open_end(&ends[0], config());
    UNTIL(ends[0].ready);
    rest();
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, other_thread, ends[0].node));
    double began = now();
    while (!atomic_load(&woken))
        OK(ends[0].node, p2pd_node_turn(ends[0].node, -1));
    CHECK(!pthread_join(thread, NULL));
    CHECK(of_thread[0] == P2PD_ERR_BUSY && of_thread[1] == P2PD_OK);
    CHECK(now() - began < PATIENCE);
    /* And with its own time. */
    began = now();
    OK(ends[0].node, p2pd_node_turn(ends[0].node, 30));
    CHECK(now() - began > 0.02);
    free_all();
}

/* Whatever leaves something to do makes the descriptor readable, so that nobody has to ask for the timeout in between. */
static void stirs(void) {
    p2pd_config *settings = config();
    CHECK(p2pd_config_allow_sessions(settings, true) == P2PD_OK);
    open_end(&ends[0], config());
    open_end(&ends[1], settings);
    CHECK(readable());
    char to[2048];
    snprintf(to, sizeof to, "%s", address_of(&ends[1]));
    p2pd_node *node = ends[0].node;
    uint64_t call;
    uint32_t stream;
    size_t n;
    rest();
    OK(node, p2pd_node_wake(node));
    CHECK(readable());
    rest();
    OK(node, p2pd_node_connect(node, to, NULL, &ends[0].call));
    CHECK(readable());
    rest();
    OK(node, p2pd_session_connect(node, to, NULL, &ends[0].session));
    CHECK(readable());
    UNTIL(ends[0].opened == 2 && ends[1].incoming == 2);
    rest();
    OK(node, p2pd_stream_open(node, ends[0].session, false, NULL, 0, &stream));
    OK(node, p2pd_stream_write(node, ends[0].session, stream, "x", 1, &n));
    CHECK(readable());
    rest();
    OK(node, p2pd_session_close(node, ends[0].session, 0, NULL));
    CHECK(readable());
    rest();
    OK(node, p2pd_node_connect(node, to, NULL, &call));
    turn(0);
    OK(node, p2pd_node_cancel(node, call));
    CHECK(readable());
    rest();
    OK(node, p2pd_node_shutdown(node));
    CHECK(readable());
    UNTIL(ends[0].closed);
    free_all();
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {{"encrypted", encrypted}, {"plain", plain},       {"reverse", reverse}, {"relay", relay},
             {"errors", errors},       {"cancel", cancel},     {"closes", closes},   {"taken", taken},
             {"sessions", sessions},   {"accepts", accepts},   {"names", names},     {"threads", threads},
             {"stirs", stirs}};

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    list = argv[2];
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++)
        if (!strcmp(argv[1], cases[n].name) || !strcmp(argv[1], "all")) {
            what = cases[n].name;
            double began = now();
            cases[n].run();
            printf("%s: %.2f s\n", what, now() - began);
            fflush(stdout);
        }
    return *what ? 0 : 2;
}
