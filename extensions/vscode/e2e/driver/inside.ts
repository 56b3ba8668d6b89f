import * as net from 'node:net';
import * as path from 'node:path';
import { text } from 'node:stream/consumers';

import { until } from './wait.ts';

/** What an extension host tells of itself. */
export interface State {
	/** The active debug session's configuration. */
	readonly session?: Record<string, unknown>;
	/** Extensions that have been activated. */
	readonly active: readonly string[];
	readonly pid: number;
	readonly memory: NodeJS.MemoryUsage;
}

/** The tests' hand inside a window's extension host: standins/inside. */
export class Inside {
	private readonly socket: string;

	constructor(runtimeDir: string, folder: string) {
		this.socket = path.join(runtimeDir, path.basename(folder) + '.sock');
	}

	private async ask(request: unknown): Promise<unknown> {
		const connection = net.createConnection(this.socket);
		connection.write(JSON.stringify(request) + '\n');
		const answer = JSON.parse(await text(connection)) as { result?: unknown; error?: string };
		if (answer.error !== undefined) {
			throw new Error(`${JSON.stringify(request)}: ${answer.error}`);
		}
		return answer.result;
	}

	/** Waits until the extension host has started its extensions. */
	async ready(): Promise<void> {
		await until('the extension host', () => this.state().catch(() => undefined));
	}

	/** Changes the user's settings, and returns when they hold; null takes one away. */
	async settings(settings: Readonly<Record<string, unknown>>): Promise<void> {
		await this.ask({ settings });
	}

	async command(command: string, ...args: unknown[]): Promise<unknown> {
		return this.ask({ command, args });
	}

	async state(): Promise<State> {
		return await this.ask({ state: true }) as State;
	}
}
