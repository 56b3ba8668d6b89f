// What golang.go 0.5x does with a launch, as far as other extensions can see:
// what is in the final configuration, and how dlv is started with it. dlv's
// output comes as output events, since it and the debuggee write to pipes here.
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const vscode = require('vscode');

/** @typedef {vscode.DebugProtocolMessage & { type?: string, command?: string, seq?: number }} Message */

/** @param {vscode.ExtensionContext} context */
function activate(context) {
	const log = vscode.window.createOutputChannel('Go Debug', { log: true });
	context.subscriptions.push(
		log,
		vscode.debug.registerDebugConfigurationProvider('go', { resolveDebugConfiguration: resolve, resolveDebugConfigurationWithSubstitutedVariables: finish }),
		vscode.debug.registerDebugAdapterDescriptorFactory('go', {
			createDebugAdapterDescriptor: session => {
				log.debug(`configuration ${JSON.stringify(session.configuration)}`);
				return new vscode.DebugAdapterInlineImplementation(new Adapter(session.configuration, log));
			},
		}),
	);
}

/**
 * @param {vscode.WorkspaceFolder | undefined} folder
 * @param {vscode.DebugConfiguration} c
 */
function resolve(folder, c) {
	if (!c.request) {
		const file = vscode.window.activeTextEditor?.document.fileName;
		if (!file?.endsWith('.go')) {
			return undefined;
		}
		c = { ...c, type: 'go', name: 'Launch', request: 'launch', mode: 'auto', program: path.dirname(file) };
	}
	c.mode ??= 'auto';
	if (c.mode === 'auto') {
		c.mode = String(c.program).endsWith('_test.go') ? 'test' : 'debug';
	}
	c.debugAdapter ??= 'dlv-dap';
	c.hideSystemGoroutines ??= false;
	const tools = vscode.workspace.getConfiguration('go', folder?.uri).get('alternateTools', /** @type {Record<string, string>} */ ({}));
	const dlv = tools.dlv ?? (process.env.PATH ?? '').split(path.delimiter).map(dir => path.join(dir, 'dlv')).find(file => fs.existsSync(file));
	if (!dlv) {
		vscode.window.showErrorMessage('The "dlv" command is not available. Run "go install -v github.com/go-delve/delve/cmd/dlv@latest" to install.');
		return undefined;
	}
	c.dlvToolPath = dlv;
	return c;
}

/**
 * @param {vscode.WorkspaceFolder | undefined} folder
 * @param {vscode.DebugConfiguration} c
 */
function finish(folder, c) {
	c.env = { GOPATH: process.env.GOPATH ?? path.join(process.env.HOME ?? '/', 'go'), ...c.env };
	for (const name of ['cwd', 'output', 'program']) {
		if (c[name] && !path.isAbsolute(c[name]) && folder) {
			c[name] = path.join(folder.uri.fsPath, c[name]);
		}
	}
	if (c.request === 'launch' && ['debug', 'test'].includes(c.mode) && !c.port && !c.debugServer) {
		const isDirectory = fs.lstatSync(c.program).isDirectory();
		c.__buildDir = isDirectory ? c.program : path.dirname(c.program);
		c.program = isDirectory ? '.' : './' + path.basename(c.program);
	}
	return c;
}

/** @implements {vscode.DebugAdapter} */
class Adapter {
	/** @type {vscode.EventEmitter<Message>} */
	#messages = new vscode.EventEmitter();
	#configuration;
	#log;
	/** @type {Promise<net.Socket> | undefined} */
	#server;
	/** @type {import('node:child_process').ChildProcess | undefined} */
	#dlv;
	onDidSendMessage = /** @type {vscode.Event<Message>} */ (this.#messages.event);

	/**
	 * @param {vscode.DebugConfiguration} configuration
	 * @param {vscode.LogOutputChannel} log
	 */
	constructor(configuration, log) {
		this.#configuration = configuration;
		this.#log = log;
	}

	/** @param {Message} m */
	async handleMessage(m) {
		if (m.type === 'response') {
			return; // to the runInTerminal that start sends
		}
		this.#server ??= this.#start();
		try {
			const server = await this.#server;
			const body = JSON.stringify(m);
			server.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
		} catch (err) {
			this.#messages.fire(/** @type {Message} */ ({
				type: 'response', seq: 0, request_seq: m.seq, success: false, command: m.command, message: `Couldn't start dlv dap:\n${err}`,
			}));
		}
	}

	/** @param {string} category @param {string} output */
	#output(category, output) {
		this.#messages.fire(/** @type {Message} */ ({ type: 'event', seq: 0, event: 'output', body: { category, output } }));
	}

	async #start() {
		const c = this.#configuration;
		if (!fs.existsSync(c.dlvToolPath)) {
			throw new Error(`Cannot find Delve debugger (${c.dlvToolPath})`);
		}
		const socket = await (c.port ? connect(c.port) : c.console === 'integratedTerminal' ? this.#inTerminal() : this.#piped());
		this.#read(socket);
		return socket;
	}

	async #inTerminal() {
		const server = net.createServer({ pauseOnConnect: true });
		await new Promise(resolve => server.listen(0, () => resolve(undefined)));
		const { port } = /** @type {net.AddressInfo} */ (server.address());
		const args = [this.#configuration.dlvToolPath, 'dap', `--client-addr=:${port}`];
		/** @type {Promise<net.Socket>} */
		const connected = new Promise((resolve, reject) => {
			const timer = setTimeout(() => {
				server.close();
				reject(new Error('timed out while waiting for DAP in reverse mode to connect'));
			}, 30_000);
			server.once('connection', s => {
				clearTimeout(timer);
				server.close();
				s.resume();
				resolve(s);
			});
		});
		this.#messages.fire(/** @type {Message} */ ({
			type: 'request', seq: 0, command: 'runInTerminal', arguments: {
				kind: 'integrated', title: `Go Debug Terminal (${this.#configuration.name})`,
				cwd: this.#configuration.__buildDir ?? this.#configuration.cwd, args, env: this.#configuration.env,
			},
		}));
		return connected;
	}

	async #piped() {
		const port = await freePort();
		const c = this.#configuration;
		const args = ['dap', `--listen=127.0.0.1:${port}`, '--log-dest=3'];
		this.#output('console', `Starting: ${c.dlvToolPath} ${args.join(' ')} from ${c.__buildDir}\n`);
		await new Promise((resolve, reject) => {
			const dlv = spawn(c.dlvToolPath, args, { cwd: c.__buildDir ?? c.cwd, env: { ...process.env, ...c.env }, stdio: ['pipe', 'pipe', 'pipe', 'pipe'] });
			this.#dlv = dlv;
			const timer = setTimeout(() => reject(new Error('timed out while waiting for DAP server to start')), 30_000);
			/** @param {string} category */
			const listener = category => /** @param {Buffer} chunk */ chunk => {
				if (chunk.toString().startsWith('DAP server listening at:')) {
					clearTimeout(timer);
					resolve(undefined);
				}
				this.#output(category, chunk.toString());
			};
			dlv.stdout.on('data', listener('stdout'));
			dlv.stderr.on('data', chunk => this.#output('stderr', chunk.toString()));
			dlv.stdio[3]?.on('data', listener('console'));
			dlv.on('error', err => this.#output('console', `Error: ${err}\n`));
			dlv.on('close', (code, signal) => {
				this.#output('console', `dlv dap (${dlv.pid}) exited with code: ${code} signal: ${signal}\n`);
				this.#log.info(`dlv ${dlv.pid} has ended: code ${code}, signal ${signal}`);
			});
		});
		return connect(port);
	}

	/** @param {net.Socket} socket */
	#read(socket) {
		let had = Buffer.alloc(0);
		socket.on('data', chunk => {
			had = Buffer.concat([had, chunk]);
			for (;;) {
				const head = had.indexOf('\r\n\r\n');
				const length = Number(/Content-Length: *(\d+)/.exec(had.toString('utf8', 0, Math.max(head, 0)))?.[1] ?? NaN);
				if (head < 0 || !(had.length >= head + 4 + length)) {
					return;
				}
				const m = /** @type {Message} */ (JSON.parse(had.toString('utf8', head + 4, head + 4 + length)));
				had = had.subarray(head + 4 + length);
				if (m.type !== 'request') { // Delve's are not for the editor
					this.#messages.fire(m);
				}
			}
		});
		socket.on('error', err => {
			this.#output('console', `connection error: ${err}\n`);
			this.#messages.fire(/** @type {Message} */ ({ type: 'event', seq: 0, event: 'terminated' }));
		});
	}

	async dispose() {
		(await this.#server?.catch(() => undefined))?.end();
		const dlv = this.#dlv;
		if (dlv && dlv.exitCode === null && dlv.signalCode === null) {
			const timer = setTimeout(() => dlv.kill('SIGINT'), 1_000);
			dlv.once('exit', () => clearTimeout(timer));
		}
	}
}

/**
 * @param {number} port
 * @returns {Promise<net.Socket>}
 */
function connect(port) {
	return new Promise((resolve, reject) => {
		const s = net.createConnection(port, '127.0.0.1', () => {
			s.off('error', reject);
			resolve(s);
		});
		s.once('error', reject);
	});
}

/** @returns {Promise<number>} */
function freePort() {
	return new Promise(resolve => {
		const s = net.createServer().listen(0, '127.0.0.1', () => {
			const { port } = /** @type {net.AddressInfo} */ (s.address());
			s.close(() => resolve(port));
		});
	});
}

module.exports = { activate };
