// The broker aedes, on loopback: MQTT at one port, and in WebSockets at the next.
import { createServer } from "http";
import net from "net";

const { Aedes } = await import("@MODULES@/aedes/aedes.js");
const { WebSocketServer, createWebSocketStream } = await import("@MODULES@/ws/wrapper.mjs");

const broker = await Aedes.createBroker();
net.createServer(broker.handle).listen(@PORT@, "127.0.0.1");
const http = createServer();
const sockets = new WebSocketServer({ server: http });
sockets.on("connection", (socket, request) => broker.handle(createWebSocketStream(socket), request));
http.listen(@PORT@ + 1, "127.0.0.1");
