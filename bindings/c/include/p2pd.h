/*
 * p2pd for programs in C: opens a connection between two computers wherever they are.
 *
 * A node belongs to your loop. It has no thread and calls nothing of yours:
 *
 *     for (;;) {
 *         p2pd_event event = {.size = sizeof event};
 *         while (p2pd_node_next_event(node, &event) == P2PD_OK)
 *             ...                                  // what happened
 *         p2pd_node_timeout(node, &timeout);
 *         poll(&(struct pollfd){fd, POLLIN, 0}, 1, timeout);   // fd: p2pd_node_fd, once
 *         p2pd_node_turn(node, 0);
 *     }
 *
 * Without a loop of your own let the node wait: p2pd_node_turn(node, -1).
 *
 * Results. Each call that can fail returns a p2pd_status: 0 and above is no error. p2pd_node_error has the text of an
 * error. There is no state outside of the handles.
 *
 * Memory. p2pd_config and p2pd_node are freed by their calls, everything else of the library by the node. Whatever the
 * library writes goes to a place of yours, of the size that you give. Texts are UTF-8 and end with a zero byte. A text
 * that the library returns is its own; the call says how long it stays.
 *
 * Ids. Calls, pipes, sessions, streams and questions are numbers. None is used twice in a node (a stream's in its
 * session), and a number that is gone is answered by P2PD_ERR_UNKNOWN.
 *
 * Structs that may grow begin with their size. Set it to sizeof, and all else to zero, as {.size = sizeof x} does.
 *
 * Threads. A handle may be used by any thread, by one at a time: a second one is given P2PD_ERR_BUSY. p2pd_node_wake may come
 * from any thread at any time. Free a handle when no other thread is in a call on it.
 *
 * Pointers. NULL is an error where nothing else is said. Anything else has to lead to what the call says.
 *
 * Signals. The library raises no SIGPIPE, and sets no handler. After fork() only the parent may use its handles.
 */


#ifndef P2PD_H
#define P2PD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/**
 * Result of a call. Zero and above is no error; p2pd_node_error and p2pd_config_error have the text of an error.
 */
enum p2pd_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  P2PD_OK = 0,
  /**
   * Nothing now. An event says when to try again, where there is one to wait for.
   */
  P2PD_AGAIN = 1,
  /**
   * No bytes ever: the peer ended its direction, and all was read.
   */
  P2PD_END = 2,
  /**
   * A pointer is NULL that must not be.
   */
  P2PD_ERR_NULL = -1,
  /**
   * An argument is outside of what the call takes.
   */
  P2PD_ERR_ARGUMENT = -2,
  /**
   * A buffer is too small; the size that was wanted is said where the call has a place for it.
   */
  P2PD_ERR_BUFFER = -3,
  /**
   * The `size` of a struct is less than that of its first version, or it has fields set that this library does not know.
   */
  P2PD_ERR_SIZE = -4,
  /**
   * There is no call, pipe, session or question with this id any more.
   */
  P2PD_ERR_UNKNOWN = -5,
  /**
   * Another thread is in a call on this handle.
   */
  P2PD_ERR_BUSY = -6,
  /**
   * The library has a fault, which was caught. The handle answers nothing else from now on; free it.
   */
  P2PD_ERR_PANIC = -7,
  /**
   * The operating system gave an error.
   */
  P2PD_ERR_SYSTEM = -8,
  /**
   * Not to be had on the system, or with such a pipe.
   */
  P2PD_ERR_UNSUPPORTED = -9,
  /**
   * The text is neither a peer's address nor a name.
   */
  P2PD_ERR_ADDRESS = -10,
  /**
   * The key file cannot be used.
   */
  P2PD_ERR_KEY = -11,
  /**
   * The server list cannot be used.
   */
  P2PD_ERR_SERVERS = -12,
  /**
   * The configuration is wrong, or the node cannot listen where it says.
   */
  P2PD_ERR_OPEN = -13,
  /**
   * Too many calls, streams or bytes at a time.
   */
  P2PD_ERR_LIMIT = -14,
  /**
   * The node was shut down.
   */
  P2PD_ERR_SHUTDOWN = -15,
  /**
   * A call: its deadline passed.
   */
  P2PD_ERR_DEADLINE = -16,
  /**
   * A call: every strategy ended without a connection.
   */
  P2PD_ERR_FAILED = -17,
  /**
   * A call: the peer refused.
   */
  P2PD_ERR_REFUSED = -18,
  /**
   * A call: the peer's name was not found.
   */
  P2PD_ERR_NAME = -19,
  /**
   * A pipe broke: it was cut off, changed on its way, or its path is gone.
   */
  P2PD_ERR_BROKEN = -20,
  /**
   * The direction was ended here before.
   */
  P2PD_ERR_CLOSED = -21,
  /**
   * A stream: the peer gave its direction up; p2pd_node_error_code has its code.
   */
  P2PD_ERR_RESET = -22,
  /**
   * The session is over.
   */
  P2PD_ERR_ENDED = -23,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p2pd_status p2pd_status;
#else
typedef int32_t p2pd_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Ways to open a connection.
 */
enum p2pd_strategy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The node dials the peer's addresses.
   */
  P2PD_DIRECT = 1,
  /**
   * The peer, asked over a broker, dials this node's addresses.
   */
  P2PD_REVERSE = 2,
  /**
   * Both dial at the same time, through their NATs, over TCP.
   */
  P2PD_PUNCH = 3,
  /**
   * The same over UDP, with QUIC on the path that was found.
   */
  P2PD_UDP = 4,
  /**
   * A TURN server carries the bytes, which are sealed from end to end.
   */
  P2PD_RELAY = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p2pd_strategy p2pd_strategy;
#else
typedef uint8_t p2pd_strategy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Protection of a pipe's bytes.
 */
enum p2pd_mode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Both ends have proved who they are, and every byte is sealed.
   */
  P2PD_ENCRYPTED = 0,
  /**
   * Both ends have proved who they are, and nothing is protected after that. The listener has to permit it.
   */
  P2PD_PLAIN = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p2pd_mode p2pd_mode;
#else
typedef uint32_t p2pd_mode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Kinds of events, with the fields of p2pd_event that each has. Later versions may have more: leave out what you do not know.
 */
enum p2pd_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The node listens. `text`: its address as known so far.
   */
  P2PD_EVENT_LISTENING = 1,
  /**
   * Outside addresses and brokers are settled. `text`: the address to hand out. Said again when it changes.
   */
  P2PD_EVENT_READY = 2,
  /**
   * The node cannot listen, so nobody reaches it directly. `text`: where, and why.
   */
  P2PD_EVENT_LISTEN_FAILED = 3,
  /**
   * The state of a broker changed. `code`: the broker's id. `status`: P2PD_OK if it is ready. `text`: in words.
   */
  P2PD_EVENT_BROKER = 4,
  /**
   * A call moved on. `call`; `code`: the p2pd_strategy that moved. `text`: in words.
   */
  P2PD_EVENT_PROGRESS = 5,
  /**
   * A call has its pipe. `call`, `pipe`; `text`: the peer's node id.
   */
  P2PD_EVENT_OPENED = 6,
  /**
   * A call has no pipe. `call`, `status`; `text`: why, strategy by strategy.
   */
  P2PD_EVENT_NOT_OPENED = 7,
  /**
   * A peer opened a pipe to this node. `pipe`; `text`: the peer's node id.
   */
  P2PD_EVENT_INCOMING = 8,
  /**
   * A peer wants a pipe, and the configuration says ask: p2pd_node_answer within 30 s. `text`: its node id.
   */
  P2PD_EVENT_ASK = 9,
  /**
   * A peer that was asked about has hung up. `text`: its node id.
   */
  P2PD_EVENT_ASK_OVER = 10,
  /**
   * Bytes, the end or an error can be read, after a read that gave P2PD_AGAIN, and once when the pipe is new. `pipe`.
   */
  P2PD_EVENT_PIPE_READABLE = 11,
  /**
   * A pipe takes bytes again, after a write that took fewer than it was given. `pipe`.
   */
  P2PD_EVENT_PIPE_WRITABLE = 12,
  /**
   * A call has its session. `session`.
   */
  P2PD_EVENT_SESSION_OPENED = 13,
  /**
   * A call has no session. `session`, which is gone; `status`, `text`: why.
   */
  P2PD_EVENT_SESSION_NOT_OPENED = 14,
  /**
   * A peer opened a session to this node. `session`; `text`: the peer's node id.
   */
  P2PD_EVENT_SESSION_INCOMING = 15,
  /**
   * The peer opened a stream. `session`, `stream`; `text`: its tag. `code`: 1 if only the peer sends on it.
   */
  P2PD_EVENT_STREAM_INCOMING = 16,
  /**
   * Bytes, the end or a reset can be read, after a read that gave P2PD_AGAIN. `session`, `stream`.
   */
  P2PD_EVENT_STREAM_READABLE = 17,
  /**
   * A stream takes bytes again, after a write that took fewer than it was given. `session`, `stream`.
   */
  P2PD_EVENT_STREAM_WRITABLE = 18,
  /**
   * The peer wants no more of a stream. `session`, `stream`, `code`: the peer's.
   */
  P2PD_EVENT_STREAM_STOPPED = 19,
  /**
   * Streams may be opened again, after p2pd_stream_open gave P2PD_AGAIN. `session`.
   */
  P2PD_EVENT_SESSION_MAY_OPEN = 20,
  /**
   * Datagrams have come: receive until P2PD_AGAIN. `session`.
   */
  P2PD_EVENT_SESSION_DATAGRAM = 21,
  /**
   * All that was written has arrived, after p2pd_session_delivered gave P2PD_AGAIN. `session`.
   */
  P2PD_EVENT_SESSION_DELIVERED = 22,
  /**
   * The session goes over another connection from now on. `session`.
   */
  P2PD_EVENT_SESSION_MOVED = 23,
  /**
   * The session has no connection, and waits for one, 60 s at most. `session`.
   */
  P2PD_EVENT_SESSION_STRANDED = 24,
  /**
   * The session is over: free it. `session`; `code`: the peer's; `text`: why.
   */
  P2PD_EVENT_SESSION_ENDED = 25,
  /**
   * A host name is to be looked up, with p2pd_config_own_names. `query`: for p2pd_node_resolved. `text`: the name.
   */
  P2PD_EVENT_LOOK_UP = 26,
  /**
   * A second process uses the node's key, and messages for the node reach both.
   */
  P2PD_EVENT_IDENTITY_IN_USE = 27,
  /**
   * The node has ended, after p2pd_node_shutdown. Pipes live on until p2pd_node_free.
   */
  P2PD_EVENT_CLOSED = 28,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p2pd_event_kind p2pd_event_kind;
#else
typedef uint32_t p2pd_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Settings of a node. A node that was opened keeps nothing of them, so one may open several nodes and be freed at once.
 */
typedef struct p2pd_config p2pd_config;

/**
 * A node: its sockets, calls, pipes and sessions.
 */
typedef struct p2pd_node p2pd_node;

/**
 * One event. Its fields are side by side and not a union, which cgo, LuaJIT and Python's ctypes read badly. A field that the kind
 * does not name is 0.
 */
typedef struct {
  /**
   * sizeof(p2pd_event), set by the caller before the call.
   */
  uint32_t size;
  /**
   * A number of p2pd_event_kind.
   */
  uint32_t kind;
  /**
   * Id that p2pd_node_connect gave.
   */
  uint64_t call;
  /**
   * Pipe. No id is used twice in a node, of each kind of id.
   */
  uint64_t pipe;
  /**
   * Session.
   */
  uint64_t session;
  /**
   * Question about a host name.
   */
  uint64_t query;
  /**
   * Stream of the session.
   */
  uint32_t stream;
  /**
   * Number, by kind.
   */
  uint32_t code;
  /**
   * Number of p2pd_status: how a call ended.
   */
  int32_t status;
  /**
   * Always 0.
   */
  uint32_t reserved;
  /**
   * Text in UTF-8, or a stream's tag as the peer sent it, never NULL. The library's own, until the next p2pd_node_next_event or
   * p2pd_node_free on this node. A zero byte follows it.
   */
  const char *text;
  /**
   * Bytes of the text without its zero byte.
   */
  size_t text_size;
} p2pd_event;

/**
 * Plan of one call. All zero but `size` is the default, as is NULL in its place.
 */
typedef struct {
  /**
   * sizeof(p2pd_plan).
   */
  uint32_t size;
  /**
   * A number of p2pd_mode. Does not count for sessions, which are encrypted.
   */
  uint32_t mode;
  /**
   * The call ends after so many milliseconds; 0 for 20,000. At most an hour.
   */
  uint32_t timeout_ms;
  /**
   * Not 0: the relay begins at once, beside the others. By default it begins when these have ended, or after 3 s.
   */
  uint32_t relay_first;
  /**
   * Numbers of p2pd_strategy, begun in this order; a 0 ends the list. An empty list is all.
   */
  uint8_t strategies[8];
  /**
   * Name of what is spoken over the pipe, 1 to 64 bytes, for listeners that take some only. NULL for none.
   */
  const char *protocol;
} p2pd_plan;

/**
 * Properties of a pipe.
 */
typedef struct {
  /**
   * sizeof(p2pd_pipe_info), set by the caller before the call.
   */
  uint32_t size;
  /**
   * Number of the p2pd_strategy that opened it.
   */
  uint32_t strategy;
  /**
   * Number of its p2pd_mode.
   */
  uint32_t mode;
  /**
   * Of a pipe that a peer opened: 1 if the accept list or a yes named the peer, 0 for a stranger.
   */
  uint32_t named;
  /**
   * Microseconds that opening took.
   */
  uint64_t elapsed_us;
  /**
   * The peer's proven node id, with a zero byte.
   */
  char peer[64];
  /**
   * Local end as IP:PORT, with a zero byte; of a relayed pipe the relayed address, where it is ours.
   */
  char local[64];
  /**
   * The peer's end as seen from here, with a zero byte.
   */
  char remote[64];
  /**
   * Protocol that the caller named, with a zero byte. Empty for none.
   */
  char protocol[72];
} p2pd_pipe_info;

/**
 * Properties of a session's connection.
 */
typedef struct {
  /**
   * sizeof(p2pd_session_info), set by the caller before the call.
   */
  uint32_t size;
  /**
   * Number of the p2pd_strategy that opened the connection. 0: there is no connection now, and the texts are empty.
   */
  uint32_t strategy;
  /**
   * Round trip in microseconds; 0 where none was measured yet.
   */
  uint64_t round_trip_us;
  /**
   * The peer's proven node id, with a zero byte.
   */
  char peer[64];
  /**
   * Local end of the connection as IP:PORT, with a zero byte.
   */
  char local[64];
  /**
   * The peer's end as seen from here, with a zero byte.
   */
  char remote[64];
} p2pd_session_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the meaning of a status in a few words, without what was found in the case at hand. The text is the library's
 * own and is always there.
 */
const char *p2pd_status_text(int32_t status);

/**
 * Makes a configuration: a key that nobody had before, no server, anyone accepted, encrypted pipes only, every address
 * but loopback, a port that the system chooses.
 */
p2pd_status p2pd_config_new(p2pd_config **config);

/**
 * Frees a configuration; NULL is fine.
 */
void p2pd_config_free(p2pd_config *config);

/**
 * Returns the text of the last call that failed on this configuration, p2pd_node_open among them. It stays until the
 * next one that fails, or the configuration is freed. Empty before.
 */
const char *p2pd_config_error(const p2pd_config *config);

/**
 * Takes the node's key from a file, which is made with a new key, for its owner alone, where there is none.
 * P2PD_ERR_KEY: it is no key file, or others may read it.
 */
p2pd_status p2pd_config_key_file(p2pd_config *config, const char *path);

/**
 * Sets the node's secret key: 32 bytes from a source of randomness. P2PD_ERR_KEY: another size.
 */
p2pd_status p2pd_config_key(p2pd_config *config, const uint8_t *key, size_t size);

/**
 * Listens on, dials from and announces this local IP address alone.
 */
p2pd_status p2pd_config_bind(p2pd_config *config, const char *ip);

/**
 * Listens on this TCP port. 0, the default: the system chooses.
 */
p2pd_status p2pd_config_port(p2pd_config *config, uint16_t port);

/**
 * Takes brokers, STUN, TURN and NTP servers from a server list, in place of those set before. The list has what the
 * shorter calls lack: TLS, WebSockets, logins, proxies. Programs that it names for passwords are not run.
 * P2PD_ERR_SERVERS: the list is not one.
 */
p2pd_status p2pd_config_servers_file(p2pd_config *config,
                                     const char *path);

/**
 * Takes the servers from the text of a server list, as p2pd_config_servers_file.
 */
p2pd_status p2pd_config_servers_text(p2pd_config *config, const char *list);

/**
 * Takes the well-known public servers of the list that comes with the library, as p2pd_config_servers_file. They are
 * other people's. P2PD_ERR_SERVERS while the environment has P2PD_FORBID_PUBLIC_SERVERS.
 */
p2pd_status p2pd_config_public_servers(p2pd_config *config);

/**
 * Adds an MQTT broker for signalling, at most 16. Peers find each other on brokers that both know by the same `id`.
 */
p2pd_status p2pd_config_add_broker(p2pd_config *config,
                                   uint16_t id,
                                   const char *host,
                                   uint16_t port);

/**
 * Adds a STUN server, at most 16. 3478 is STUN's own port.
 */
p2pd_status p2pd_config_add_stun(p2pd_config *config, const char *host, uint16_t port);

/**
 * Adds a TURN server, at most 16, with who we are to it; both NULL for a server that relays for anyone. 3478 is TURN's
 * own port.
 */
p2pd_status p2pd_config_add_turn(p2pd_config *config,
                                 const char *host,
                                 uint16_t port,
                                 const char *user,
                                 const char *password);

/**
 * Accepts anyone who knows the node's address, which is the default.
 */
p2pd_status p2pd_config_accept_anyone(p2pd_config *config);

/**
 * Accepts the peer with this node id, and no longer anyone. NULL accepts nobody yet. A node id is the last part of an address.
 */
p2pd_status p2pd_config_accept_peer(p2pd_config *config,
                                    const char *id);

/**
 * Asks by P2PD_EVENT_ASK whether a peer may have a pipe; answer by p2pd_node_answer.
 */
p2pd_status p2pd_config_accept_ask(p2pd_config *config);

/**
 * Permits peers to ask for plain pipes. Default: no.
 */
p2pd_status p2pd_config_allow_plain(p2pd_config *config, bool allow);

/**
 * Permits peers to open sessions. Default: no.
 */
p2pd_status p2pd_config_allow_sessions(p2pd_config *config, bool allow);

/**
 * Sets how many streams a peer may have open in a session, 1 or more, and how many bytes of a session may wait here to be read, 65,536
 * or more. Default: 256 streams, 16 MiB. Anybody whose sessions are permitted may fill that, with each of its sessions: stop the
 * streams that are not wanted, and free each session at P2PD_EVENT_SESSION_ENDED.
 */
p2pd_status p2pd_config_session_limits(p2pd_config *config,
                                       uint32_t streams,
                                       uint64_t bytes);

/**
 * Adds a protocol of which peers may open pipes, 1 to 64 bytes. With none, all may be opened, and calls that name none.
 */
p2pd_status p2pd_config_add_protocol(p2pd_config *config,
                                     const char *protocol);

/**
 * Has routers open the listener's port, by PCP, NAT-PMP or UPnP. Default: no.
 */
p2pd_status p2pd_config_portmap(p2pd_config *config, bool open);

/**
 * Sets how many streams and pipes that peers opened there may be at a time. Default: by the descriptors that the process may
 * have, at most 8,192.
 */
p2pd_status p2pd_config_max_pipes(p2pd_config *config,
                                  uint32_t most);

/**
 * Sets when an idle pipe asks for a sign of life, and how long it waits for one. Default 20,000 and 30,000. 0 is never,
 * and the system's own patience.
 */
p2pd_status p2pd_config_liveness(p2pd_config *config,
                                 uint32_t interval_ms,
                                 uint32_t patience_ms);

/**
 * Has host names asked for by P2PD_EVENT_LOOK_UP. By default each is looked up on a thread that ends with it; off Unix
 * within p2pd_node_turn, which blocks meanwhile. Servers that are given as IP addresses need neither.
 */
p2pd_status p2pd_config_own_names(p2pd_config *config,
                                  bool own);

/**
 * Opens a node with these settings; it listens when this returns. The configuration may be freed afterwards. Its
 * p2pd_config_error has the text of an error.
 */
p2pd_status p2pd_node_open(p2pd_config *config,
                           p2pd_node **node);

/**
 * Frees a node at once, with its pipes and sessions, which are cut off. Call p2pd_node_shutdown before, and go on until
 * P2PD_EVENT_CLOSED, to have brokers and routers told. NULL is fine.
 */
void p2pd_node_free(p2pd_node *node);

/**
 * Begins to end the node: calls fail, brokers are told, sockets closed. P2PD_EVENT_CLOSED follows within a second, or two where a
 * router has to close a port. Pipes live on until p2pd_node_free.
 */
p2pd_status p2pd_node_shutdown(p2pd_node *node);

/**
 * Returns the text of the last call that failed on this node. It stays until the next one that fails, or the node is
 * freed. Empty before, and while another thread is in a call.
 */
const char *p2pd_node_error(const p2pd_node *node);

/**
 * Returns the code that the peer gave, of the last call that failed on this node with P2PD_ERR_RESET; otherwise 0.
 */
uint32_t p2pd_node_error_code(const p2pd_node *node);

/**
 * Says which descriptor to watch, for reading only: an epoll or kqueue, the same for the node's life. It is readable
 * when there is something for p2pd_node_turn to do. Read nothing from it, and do not close it. P2PD_ERR_UNSUPPORTED on
 * Windows, which has no such thing yet: let p2pd_node_turn wait there.
 */
p2pd_status p2pd_node_fd(p2pd_node *node,
                         int *fd);

/**
 * Says how many milliseconds to wait at most before the next p2pd_node_turn, as poll(2) takes it: 0 for not at all, -1
 * for as long as the descriptor is not readable. Ask after the events were taken. It gets shorter by turns only: calls
 * between them make the descriptor readable.
 */
p2pd_status p2pd_node_timeout(p2pd_node *node,
                              int32_t *timeout_ms);

/**
 * Does what there is to do: call it when the descriptor is readable or the timeout has passed, then take the events. It waits for
 * something to do for up to `wait_ms` milliseconds: 0 for a loop of your own, -1 for ever. Before the dials of a punch
 * it sleeps up to 1.3 ms more, since these are timed.
 */
p2pd_status p2pd_node_turn(p2pd_node *node,
                           int32_t wait_ms);

/**
 * Ends the wait of p2pd_node_turn, or makes the descriptor readable. This call alone may come from any thread,
 * while the node is not freed.
 */
p2pd_status p2pd_node_wake(const p2pd_node *node);

/**
 * Takes the next event; its `size` is set before. P2PD_AGAIN: there is none now, until after the next p2pd_node_turn.
 */
p2pd_status p2pd_node_next_event(p2pd_node *node,
                                 p2pd_event *event);

/**
 * Copies the node's id: 52 characters and a zero byte. `length`, which may be NULL, is told the length without it.
 */
p2pd_status p2pd_node_id(p2pd_node *node,
                         char *buffer,
                         size_t size,
                         size_t *length);

/**
 * Copies the address to hand out, with a zero byte. P2PD_AGAIN: it is not settled yet, and P2PD_EVENT_READY follows, within about
 * six seconds. P2PD_ERR_BUFFER: `length`, which may be NULL, says how long it is without the zero byte.
 */
p2pd_status p2pd_node_address(p2pd_node *node,
                              char *buffer,
                              size_t size,
                              size_t *length);

/**
 * Begins to open a pipe, to an address or a name that ends with .peer, by a plan or the default of NULL. `call` gets an
 * id. P2PD_EVENT_OPENED or P2PD_EVENT_NOT_OPENED ends the call.
 */
p2pd_status p2pd_node_connect(p2pd_node *node,
                              const char *to,
                              const p2pd_plan *plan,
                              uint64_t *call);

/**
 * Gives a call up. No event of it follows. P2PD_ERR_UNKNOWN: it is over already.
 */
p2pd_status p2pd_node_cancel(p2pd_node *node, uint64_t call);

/**
 * Answers P2PD_EVENT_ASK: whether the peer with this node id may have its pipe.
 */
p2pd_status p2pd_node_answer(p2pd_node *node, const char *peer, bool accept);

/**
 * Answers P2PD_EVENT_LOOK_UP with the name's IP addresses, separated by blanks. NULL or an empty text: there is no such name.
 */
p2pd_status p2pd_node_resolved(p2pd_node *node,
                               uint64_t query,
                               const char *addresses);

/**
 * Returns the library's version, "0.1.0" for example. Always there.
 */
const char *p2pd_version(void);

/**
 * Says what is known of a pipe; the `size` of `info` is set before.
 */
p2pd_status p2pd_pipe_get_info(p2pd_node *node, uint64_t pipe, p2pd_pipe_info *info);

/**
 * Reads what has come, up to `size` bytes; `got` gets their number. P2PD_AGAIN: nothing now, and P2PD_EVENT_PIPE_READABLE
 * follows. P2PD_END: the peer ended its direction. P2PD_ERR_BROKEN: the pipe was cut off, among others. Where there is
 * nothing, `got` is 0.
 */
p2pd_status p2pd_pipe_read(p2pd_node *node,
                           uint64_t pipe,
                           void *data,
                           size_t size,
                           size_t *got);

/**
 * Writes; `taken` gets the number of bytes that were taken, which leave by themselves. If they are fewer than `size`,
 * P2PD_EVENT_PIPE_WRITABLE follows; if they are none, the result is P2PD_AGAIN.
 */
p2pd_status p2pd_pipe_write(p2pd_node *node,
                            uint64_t pipe,
                            const void *data,
                            size_t size,
                            size_t *taken);

/**
 * Ends our direction: the peer reads P2PD_END after all that was written. The other direction goes on. Nothing to a
 * direction that was ended before.
 */
p2pd_status p2pd_pipe_shutdown(p2pd_node *node,
                               uint64_t pipe);

/**
 * Closes a pipe; its id is gone. After p2pd_pipe_shutdown what was written still leaves, within 10 s of turns. Without it the
 * pipe is cut off, and the peer reads P2PD_ERR_BROKEN if it is encrypted. Bytes that the peer sends from now on are lost, and a
 * system may then drop what it has not sent yet: to lose nothing, read until P2PD_END before.
 */
p2pd_status p2pd_pipe_close(p2pd_node *node,
                            uint64_t pipe);

/**
 * Takes the bare TCP socket of a plain pipe, if all that was written has left. The socket does not block, and is the
 * caller's to close; the pipe's id is gone. P2PD_ERR_UNSUPPORTED, and the pipe stays as it is: it is encrypted or relayed,
 * or this system has no descriptors.
 */
p2pd_status p2pd_pipe_take_fd(p2pd_node *node,
                              uint64_t pipe,
                              int *fd);

/**
 * Begins to open a session, as p2pd_node_connect begins a pipe. `session` gets its id at once.
 * P2PD_EVENT_SESSION_OPENED or P2PD_EVENT_SESSION_NOT_OPENED ends the call; p2pd_session_free gives it up.
 */
p2pd_status p2pd_session_connect(p2pd_node *node, const char *to, const p2pd_plan *plan, uint64_t *session);

/**
 * Closes a session at once: what has not arrived is lost. The peer is told the code, and up to 255 bytes of the reason,
 * which may be NULL. P2PD_EVENT_SESSION_ENDED follows; go on with turns until then, and a little longer for the peer to hear.
 */
p2pd_status p2pd_session_close(p2pd_node *node,
                               uint64_t session,
                               uint32_t code,
                               const char *reason);

/**
 * Forgets a session; its id is gone. For one that is over, or to give one up, in which case the peer hears nothing.
 */
p2pd_status p2pd_session_free(p2pd_node *node,
                              uint64_t session);

/**
 * Asks whether all that was written on a session has arrived. P2PD_AGAIN: no, and P2PD_EVENT_SESSION_DELIVERED follows.
 * P2PD_ERR_ENDED: the session is over, and what became of the rest is not known.
 */
p2pd_status p2pd_session_delivered(p2pd_node *node,
                                   uint64_t session);

/**
 * Says what is known of the connection under a session; the `size` of `info` is set before.
 */
p2pd_status p2pd_session_get_info(p2pd_node *node, uint64_t session, p2pd_session_info *info);

/**
 * Opens a stream, on which only this end sends if `one_way`. `stream` gets its number. The peer is told of it with its
 * first bytes, and of the tag, which has up to 255 bytes. P2PD_AGAIN: the peer has as many streams as it takes, and
 * P2PD_EVENT_SESSION_MAY_OPEN follows.
 */
p2pd_status p2pd_stream_open(p2pd_node *node,
                             uint64_t session,
                             bool one_way,
                             const void *tag,
                             size_t tag_size,
                             uint32_t *stream);

/**
 * Reads what has come on a stream, as p2pd_pipe_read. P2PD_ERR_RESET: the peer gave its direction up.
 * P2PD_ERR_CLOSED: the stream was stopped here, or is gone. P2PD_ERR_ENDED: so is the session.
 */
p2pd_status p2pd_stream_read(p2pd_node *node,
                             uint64_t session,
                             uint32_t stream,
                             void *data,
                             size_t size,
                             size_t *got);

/**
 * Writes on a stream, as p2pd_pipe_write. P2PD_ERR_CLOSED: our direction was ended here, or the peer stopped it.
 */
p2pd_status p2pd_stream_write(p2pd_node *node,
                              uint64_t session,
                              uint32_t stream,
                              const void *data,
                              size_t size,
                              size_t *taken);

/**
 * Ends our direction of a stream: the peer reads P2PD_END after all that was written. Nothing to one that has ended.
 */
p2pd_status p2pd_stream_finish(p2pd_node *node,
                               uint64_t session,
                               uint32_t stream);

/**
 * Gives our direction of a stream up: bytes that wait are dropped, and the peer is told the code. Nothing to one that
 * has ended.
 */
p2pd_status p2pd_stream_reset(p2pd_node *node,
                              uint64_t session,
                              uint32_t stream,
                              uint32_t code);

/**
 * Gives the peer's direction of a stream up: bytes that wait are dropped, and the peer is told the code. Nothing to one
 * that has ended.
 */
p2pd_status p2pd_stream_stop(p2pd_node *node,
                             uint64_t session,
                             uint32_t stream,
                             uint32_t code);

/**
 * Sets a stream's priority: of the streams that can send, those with the greatest send first. Default 0.
 */
p2pd_status p2pd_stream_priority(p2pd_node *node, uint64_t session, uint32_t stream, int32_t priority);

/**
 * Sends a datagram of at most 1,200 bytes, which may get lost. P2PD_ERR_ARGUMENT: it is longer.
 */
p2pd_status p2pd_datagram_send(p2pd_node *node, uint64_t session, const void *data, size_t size);

/**
 * Takes the oldest datagram that has come; `got` gets its size. P2PD_AGAIN: none, and P2PD_EVENT_SESSION_DATAGRAM follows.
 * What `size` has no room for is cut off; 1,200 bytes are always enough.
 */
p2pd_status p2pd_datagram_receive(p2pd_node *node,
                                  uint64_t session,
                                  void *data,
                                  size_t size,
                                  size_t *got);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* P2PD_H */
