// A node of scripts/cluster_rival.sh: socket.io with its Redis adapter. A chat of a client reaches all clients of all
// nodes.
//
//     node socket_io_node.mjs REDIS_SOCKET
//
// It prints the port of 127.0.0.1 on which it listens. NODE_PATH names the folder with the packages.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_PATH}/`);
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const publisher = createClient({ socket: { path: process.argv[2] } });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, { transports: ["websocket"], adapter: createAdapter(publisher, subscriber) });
io.on("connection", (socket) => {
  socket.on("chat", (text) => io.emit("chat", text));
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
