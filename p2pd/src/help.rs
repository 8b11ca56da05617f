//! The longer part of `--help` and of the man pages: examples, and the meaning of the exit code. `tests/examples.rs` runs each
//! example, and holds the guide's page of commands against them.

pub(crate) const MAIN: &str = "\
Two computers that both reach a third one, which runs the servers:
  server$ p2pd serve --write servers.toml --host server.example
  there$  p2pd listen --config servers.toml
  here$   p2pd connect ADDRESS --config servers.toml < file

On one computer, without servers:
  $ p2pd listen --no-servers --bind 127.0.0.1
  $ p2pd connect ADDRESS --no-servers --bind 127.0.0.1

Every strategy tried on this machine: p2pd demo

Exit status:
  0  done: the pipe ended, the files arrived, the servers were interrupted
  1  failed: no connect (with a report per strategy), a pipe that broke, a file that did not arrive
  2  wrong usage: arguments, addresses, files; nothing was opened
  130  ended by SIGINT or SIGTERM before it was done
With `connect --exec`, the program's own.";

pub(crate) const LISTEN: &str = "\
Examples:
  p2pd listen --config servers.toml --identity p2pd.key > file   # the address stays the same node's
  p2pd listen --echo                                             # every peer gets back what it sends
  p2pd listen --messages --each ./answer                         # a program answers each line of a caller
  p2pd listen --many --exec ./chat --verbose                     # a program for each caller
  p2pd listen --lan --identity p2pd.key                          # is found in this network by its node id
  p2pd listen --accept NODE-ID                                   # nobody else; searches ports for this one";

pub(crate) const CONNECT: &str = "\
Examples:
  p2pd connect ADDRESS < file
  p2pd connect NODE-ID --lan --no-servers            # whoever has this id in this network
  p2pd connect ADDRESS --strategies punch --identity p2pd.key   # the peer has --accept with our node id
  p2pd connect ADDRESS --exec ./receive.py           # a program gets the socket, as descriptor 3
  p2pd connect ADDRESS --streams                     # goes on when the network changes
  p2pd connect ADDRESS --service ssh                 # a service of the peer's p2pd expose
  p2pd connect ADDRESS --messages --only '^hel+o'    # lines are messages; shows those with this in them
  p2pd connect ADDRESS --json 2> events.json         # what happens, one JSON object a line

Exit status: 0 for a clean end, 1 for no connect or a pipe that broke, 2 for wrong usage; with --exec, the program's.";

pub(crate) const EXPOSE: &str = "\
Examples:
  p2pd expose ssh=127.0.0.1:22 web=[::1]:8080 dns=udp:127.0.0.1:53
  p2pd expose db=unix:/run/postgresql/.s.PGSQL.5432 --accept NODE-ID
  p2pd expose --allow 'intranet.example:80' --allow '10.0.0.0/8:*'   # for forward --socks

Peers are those of --accept; without it the terminal is asked about each new one, and the answer counts until the end. A
peer has 1,024 connections at a time, all have 4,096. A service has 10 s to answer.";

pub(crate) const FORWARD: &str = "\
Examples:
  p2pd forward ADDRESS ssh 2222 web :8080 dns udp:5353   # then: ssh -p 2222 localhost
  p2pd forward ADDRESS db unix:./db.sock
  p2pd forward ADDRESS --socks 1080                      # then: curl -x socks5h://127.0.0.1:1080 http://intranet.example/
  ssh -o ProxyCommand='p2pd connect ADDRESS --service ssh' user@host

When the connection breaks, or this machine's network changes, connections stand still and go on, for 60 s. When the peer's
program was begun anew, those that were open are reset, and the next one opens a new session.

Exit status: 0 when it is interrupted, 1 if the peer was not reached at first or a place is taken, 2 for wrong usage.";

pub(crate) const SEND: &str = "\
Examples:
  there$ p2pd file receive --dir Downloads
  here$  p2pd file send ADDRESS Photos *.jpg
  here$  tar c Photos | p2pd file send ADDRESS -

The receiver compares the BLAKE3 hash of each file with the sender's before it gives the file its name. One that is
there already is not sent again. Links inside of folders are sent as links, and never followed.

Exit status: 0 if the receiver has all of them, 1 if not, 2 for wrong usage.";

pub(crate) const RECEIVE: &str = "\
Examples:
  p2pd file receive --dir Downloads --accept NODE-ID   # from this node only
  p2pd file receive --once --max-size 2G               # one peer, and then the end
  p2pd file receive --identity p2pd.key                # begun again it goes on with what was cut off
  p2pd file receive --yes < /dev/null                  # folders too, though nobody can be asked

Names with slashes, backslashes, colons or control characters, hidden ones and those of Windows' devices are refused, but
for what is in a folder. A connect may send 1,000 files and folders beside what is in these; 64 peers are received from at
once, 8 of them from one address. While others wait, a peer that sends less than 4 KiB a second makes room.

Exit status: 0 if all that was offered was received, 1 if not, 2 for wrong usage.";

pub(crate) const SEND_CODE: &str = "\
Examples:
  here$  p2pd send *.jpg                   # prints a code, such as 7-guitar-oxygen
  there$ p2pd receive 7-guitar-oxygen
  here$  p2pd send --to laptop notes.txt   # a machine that was paired, and runs p2pd receive

A code is for one receiver, within 10 minutes. A wrong code makes it of no use: another one is printed, three in all. Both
sides need a broker in common: the same server list.

Exit status: 0 if the receiver has all files, 1 if not, 2 for wrong usage.";

pub(crate) const RECEIVE_CODE: &str = "\
Examples:
  p2pd receive 7-guitar-oxygen --dir Downloads
  p2pd receive --identity p2pd.key --accept paired   # without a code: from paired machines, by their `send --to`

Exit status: 0 if all that was offered was received, 1 if not, 2 for wrong usage and for what is no code.";

pub(crate) const PAIR: &str = "\
Examples:
  desk$   p2pd pair --identity p2pd.key --name laptop          # prints a code, such as 7-guitar-oxygen
  laptop$ p2pd pair 7-guitar-oxygen --identity p2pd.key --name desk
  laptop$ p2pd connect desk --identity p2pd.key                # where desk runs: p2pd listen --identity p2pd.key --accept paired

Exit status: 0 once the other machine is in the file, 1 if not, 2 for wrong usage.";

pub(crate) const DAEMON: &str = "\
Examples:
  $ p2pd daemon --config servers.toml
  $ curl -H \"X-P2PD-Token: $(cat ~/.p2pd/token)\" http://127.0.0.1:12333/p2p/open/con/self
  $ curl http://127.0.0.1:12333/openapi.json           # every call there is";

pub(crate) const CHECK: &str = "\
Examples:
  p2pd servers check --config servers.toml
  p2pd servers check --config servers.toml --json   # one object a server, on standard output

A broker has to deliver a message to ourselves, a TURN server to relay, and of NTP servers most have to agree.

Exit status: 0 if each server does what it is for, 1 if not, 2 for wrong usage.";

pub(crate) const STATUS: &str = "\
Examples:
  p2pd status                                     # one line for each connection, session and relayed address
  p2pd status --watch
  p2pd status --unix ./p2pd.sock --json           # for programs, on standard output

Exit status: 0, or 1 if there is no daemon or it refuses, 2 for wrong usage.";

pub(crate) const SERVE: &str = "\
Examples:
  p2pd serve --write servers.toml --host server.example   # ports 1883 TCP, 3478 and 3479 UDP and TCP, relays on UDP
  p2pd serve --no-turn                                    # no relay, and no password in the list
  p2pd serve --bind 192.0.2.1 --second 192.0.2.2          # two addresses: NATs can be measured";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  p2pd completions bash > ~/.local/share/bash-completion/completions/p2pd
  p2pd completions zsh > ~/.zfunc/_p2pd                    # in a folder of $fpath
  p2pd completions fish > ~/.config/fish/completions/p2pd.fish";

pub(crate) const MAN: &str = "\
Examples:
  p2pd man | man -l -
  p2pd man ~/.local/share/man/man1";

pub(crate) const ID: &str = "\
Examples:
  p2pd id --identity p2pd.key";

pub(crate) const ADDR: &str = "\
Examples:
  p2pd addr --config servers.toml --identity p2pd.key --port 4000   # then: p2pd listen with the same";

pub(crate) const REGISTER: &str = "\
Examples:
  p2pd name register example --config servers.toml --identity p2pd.key";

pub(crate) const RESOLVE: &str = "\
Examples:
  p2pd name resolve example --config servers.toml";

pub(crate) const RELEASE: &str = "\
Examples:
  p2pd name release example --config servers.toml --identity p2pd.key";

pub(crate) const FORGET_NAME: &str = "\
Examples:
  p2pd name forget example";

pub(crate) const PING: &str = "\
Examples:
  p2pd ping ADDRESS --config servers.toml --identity p2pd.key   # a peer that accepts this node
  p2pd ping ADDRESS --config servers.toml --pipe --count 2      # on a pipe";

pub(crate) const NAT: &str = "\
Examples:
  p2pd nat --config servers.toml
  p2pd nat --config servers.toml --json              # one object a NAT, on standard error";

pub(crate) const INTERFACES: &str = "\
Examples:
  p2pd interfaces
  p2pd interfaces --config servers.toml              # with the outside address of each";

pub(crate) const MAP: &str = "\
Examples:
  p2pd map --add 4000
  p2pd map --list";

pub(crate) const CLOCK: &str = "\
Examples:
  p2pd clock --config servers.toml";

pub(crate) const PEERS: &str = "\
Examples:
  p2pd peers
  p2pd listen --identity p2pd.key --accept paired    # for these only";

pub(crate) const FORGET: &str = "\
Examples:
  p2pd peers forget laptop";

pub(crate) const DEMO: &str = "\
Examples:
  p2pd demo
  p2pd demo --size 1 --json";

pub(crate) const REPLAY: &str = "\
Examples:
  p2pd addr --no-servers --trace run.trace
  p2pd replay run.trace";

pub(crate) const CONFIG: &str = "\
Examples:
  p2pd config > servers.toml";

pub(crate) const DOCTOR: &str = "\
Examples:
  p2pd doctor --config servers.toml
  p2pd doctor --config servers.toml --port 4000         # for p2pd listen --port 4000
  p2pd doctor --config servers.toml --port 4000 --fix   # as root: asks before it runs a command
  p2pd doctor --config servers.toml --json              # one object a finding, on standard output

Rules of nftables and the state of ufw are read by root only. What nft is told is gone after a restart of the machine.

Exit status: 0 if nothing stands in the way, 1 if something does, 2 for wrong usage.";

pub(crate) const INSTALL: &str = "\
Examples:
  p2pd service install -- daemon --config servers.toml --identity p2pd.key
  p2pd service install --name web --dry-run -- expose web=8080 --config servers.toml --anyone

The unit is ~/.config/systemd/user/p2pd-NAME.service. Services of a user end when the user logs out, unless: loginctl
enable-linger.

Exit status: 0 once the unit is written and begun, 1 if not, 2 for wrong usage, of the command too.";

pub(crate) const REMOVE: &str = "\
Examples:
  p2pd service remove daemon";

pub(crate) const SERVICES: &str = "\
Examples:
  p2pd service status";
