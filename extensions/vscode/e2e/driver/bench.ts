// A server, a browser, and a window for each page; and their end.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { chromium, type Browser, type BrowserContext } from 'playwright-core';

import { allGone, memory, ours } from './processes.ts';
import { Server, type ServerOptions } from './server.ts';
import { pack } from './vsix.ts';
import { Window } from './window.ts';

export interface BenchOptions extends ServerOptions {
	/** Called before the processes are counted: what has been left running on purpose is ended here. */
	readonly ending?: (b: Bench) => Promise<void>;
}

export class Bench {
	readonly dir: string;
	readonly server: Server;
	readonly windows: Window[] = [];
	/** Addresses off this machine that a page has asked for; they are refused. */
	readonly strangers: string[] = [];
	private readonly copies = new Map<string, number>();
	private readonly browser: Browser;
	private readonly context: BrowserContext;
	private readonly options: BenchOptions;

	private constructor(dir: string, server: Server, browser: Browser, context: BrowserContext, options: BenchOptions) {
		this.dir = dir;
		this.server = server;
		this.browser = browser;
		this.context = context;
		this.options = options;
	}

	static async start(options: BenchOptions): Promise<Bench> {
		const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'mb-'));
		fs.mkdirSync(path.join(dir, 'vsix'));
		fs.mkdirSync(path.join(dir, 'tmp'));
		try {
			const extensions = [path.join(import.meta.dirname, '../standins/inside'), ...options.extensions].map(e => e.endsWith('.vsix') ? e : pack(e, path.join(dir, 'vsix')));
			const server = await Server.start(dir, { ...options, extensions });
			const browser = await chromium.launch({
				executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
				args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking'],
				env: { ...process.env as Record<string, string>, TMPDIR: path.join(dir, 'tmp'), HOME: path.join(dir, 'home'), XDG_RUNTIME_DIR: server.runtimeDir },
			});
			const context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
			await context.grantPermissions(['clipboard-read', 'clipboard-write']);
			const bench = new Bench(dir, server, browser, context, options);
			await context.route(url => url.hostname !== '127.0.0.1', route => {
				bench.strangers.push(route.request().url());
				return route.abort();
			});
			return bench;
		} catch (err) {
			await end(dir, 0);
			throw err;
		}
	}

	/** A copy of folders of workspaces/, one over the other, under a short path of its own. */
	workspace(...names: string[]): string {
		const name = names[names.length - 1];
		this.copies.set(name, (this.copies.get(name) ?? 0) + 1);
		const copy = path.join(this.dir, 'ws', name + (this.copies.get(name) === 1 ? '' : this.copies.get(name)));
		for (const name of names) {
			fs.cpSync(path.join(import.meta.dirname, '../workspaces', name), copy, { recursive: true });
		}
		return copy;
	}

	/** Opens a folder in a window of its own. */
	async open(folder: string): Promise<Window> {
		const page = await this.context.newPage();
		const w = new Window(page, folder, this.server.runtimeDir);
		this.windows.push(w);
		await page.goto(`${this.server.url}/?folder=${encodeURIComponent(folder)}`);
		await w.ready();
		return w;
	}

	/** Closes a window, as a user closes its tab. */
	async close(w: Window): Promise<void> {
		await w.page.close({ runBeforeUnload: false });
		this.windows.splice(this.windows.indexOf(w), 1);
	}

	log(extension: string, channel: string): string {
		return this.server.log(extension, channel);
	}

	/** Memory in MB of all that runs. */
	memory(): number {
		return memory(ours(Server.marker(this.dir)));
	}

	/** Ends everything, and fails if a process has to be killed for it. */
	async stop(): Promise<void> {
		await this.browser.close();
		this.server.terminate();
		try {
			await this.options.ending?.(this);
		} finally {
			await end(this.dir, 20_000);
		}
	}
}

/** Waits for a bench's processes, kills those that stay, and deletes its directory. */
async function end(dir: string, patience: number): Promise<void> {
	const marker = Server.marker(dir);
	const left = await allGone(marker, patience);
	for (const p of left) {
		try {
			process.kill(p.pid, 'SIGKILL');
		} catch {
			// it has ended meanwhile
		}
	}
	await allGone(marker, 5_000);
	fs.rmSync(dir, { recursive: true, force: true });
	if (left.length > 0 && patience > 0) {
		throw new Error('left running:\n' + left.map(p => `${p.pid} ${p.command}`).join('\n'));
	}
}
