// The debuggee of the tests in JavaScript; see main.go.
'use strict';
const crypto = require('node:crypto');
const dns = require('node:dns').promises;
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');

const secret = '/etc/shop-secret/token', config = '/etc/shop', large = '/shop';

async function look() {
	const seen = { language: 'node', greeting: process.env.SHOP_GREETING, hostname: os.hostname() };
	seen.secret = fs.readFileSync(secret, 'utf8');
	const fd = fs.openSync(secret);
	seen.mode = (fs.fstatSync(fd).mode & 0o777).toString(8);
	fs.closeSync(fd);
	seen.mapped = await fs.promises.readFile(secret, 'utf8'); // node has no mmap
	seen.config = fs.readdirSync(config).sort();
	seen.large = fs.statSync(large).size;
	const hash = crypto.createHash('sha256');
	for await (const chunk of fs.createReadStream(large)) hash.update(chunk);
	seen.largeHash = hash.digest('hex');
	await fs.promises.open('/etc/shop/absent').catch((e) => { seen.absent = e.code; });
	seen.address = (await dns.lookup('inventory')).address;
	await dns.lookup('none.shop.svc.cluster.local').catch((e) => { seen.noName = e.code; });
	seen.inventory = await new Promise((resolve, reject) => {
		http.get('http://inventory/', (r) => {
			let body = '';
			r.on('data', (d) => { body += d; }).on('end', () => resolve(body));
		}).on('error', reject);
	});
	await new Promise((resolve) => {
		net.connect(9, process.env.PROBE_REFUSED).on('error', (e) => { seen.refused = e.code; resolve(); });
	});
	await new Promise((resolve) => {
		const c = net.connect(80, 'inventory', () => {
			seen.local = `${c.localAddress}:${c.localPort}`;
			seen.peer = `${c.remoteAddress}:${c.remotePort}`;
			c.destroy();
			resolve();
		});
	});
	return seen;
}

for (const s of ['SIGTERM', 'SIGINT']) process.on(s, () => { console.log('ending'); process.exit(0); });
look().then((seen) => {
	console.log(JSON.stringify(seen));
	const server = http.createServer((req, res) => {
		const s = req.socket;
		res.end(`probe node for ${s.remoteAddress}:${s.remotePort} at ${s.localAddress}:${s.localPort}\n`);
	});
	server.listen(8080, () => console.log('listening', `${server.address().address}:${server.address().port}`));
}, (e) => { console.error(e); process.exit(1); });
