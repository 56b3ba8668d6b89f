// Answers as the sample shop's web does, in its place.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');

function answerTo(path) {
	const greeting = process.env.SHOP_GREETING ?? '';
	let config;
	try {
		config = fs.readFileSync('/etc/shop/config.yaml', 'utf8').trim();
	} catch (err) {
		config = String(err);
	}
	return { copy: 'node', host: os.hostname(), greeting, config, path };
}

const first = answerTo('/');
console.log(`shop node on ${first.host}: ${first.greeting}`);
if (process.argv[2] !== 'once') {
	const server = http.createServer((request, response) => {
		const a = answerTo(request.url);
		response.setHeader('Content-Type', 'application/json'); // the breakpoint of the tests
		response.end(JSON.stringify(a));
	});
	server.listen(process.env.PORT ?? 8080, () => console.log('shop node listens'));
}
