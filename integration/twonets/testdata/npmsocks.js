// What npm's socks client does with a proxy:
//   node npmsocks.js connect|associate PROXYPORT HOST PORT [USER PASSWORD]
// connect asks for a page, associate sends one datagram; what comes is printed.
const { SocksClient } = require('socks');
const dgram = require('dgram');

const [command, proxyPort, host, port, user, password] = process.argv.slice(2);
const proxy = { host: '127.0.0.1', port: Number(proxyPort), type: 5 };
if (user) {
  proxy.userId = user;
  proxy.password = password;
}
const fail = (err) => {
  console.log('error: ' + err.message);
  process.exit(1);
};

async function connect() {
  const { socket } = await SocksClient.createConnection({
    proxy, command: 'connect', destination: { host, port: Number(port) }, timeout: 20000,
  });
  socket.on('error', fail);
  socket.on('data', (data) => process.stdout.write(data));
  socket.on('end', () => process.exit(0));
  socket.write('GET / HTTP/1.0\r\n\r\n');
  socket.resume();
}

async function associate() {
  const control = new SocksClient({
    proxy, command: 'associate', destination: { host: '0.0.0.0', port: 0 }, timeout: 20000,
  });
  control.on('error', fail);
  control.on('established', ({ remoteHost }) => {
    const udp = dgram.createSocket('udp4');
    const frame = SocksClient.createUDPFrame({
      remoteHost: { host, port: Number(port) }, data: Buffer.from('datagram of npm'),
    });
    udp.on('message', (message) => {
      const answer = SocksClient.parseUDPFrame(message);
      const from = answer.remoteHost.host;
      // It writes IPv6 out in full.
      const short = from.includes(':') ? new URL(`http://[${from}]`).hostname.slice(1, -1) : from;
      console.log(`${answer.data} from ${short} ${answer.remoteHost.port}`);
      process.exit(0);
    });
    udp.send(frame, remoteHost.port, remoteHost.host);
  });
  control.connect();
}

(command === 'connect' ? connect() : associate()).catch(fail);
