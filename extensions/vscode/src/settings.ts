import * as path from 'node:path';
import * as vscode from 'vscode';

/** A target, and where it is. */
export interface Chosen {
	target: string;
	namespace?: string;
	context?: string;
}

/** The user's settings, and what a workspace remembers of choices made. */
export class Settings {
	private readonly changed = new vscode.EventEmitter<void>();
	readonly onChange = this.changed.event;

	constructor(private readonly ctx: vscode.ExtensionContext) {
		ctx.subscriptions.push(this.changed, vscode.workspace.onDidChangeConfiguration((e) => {
			if (e.affectsConfiguration('mirrord')) this.changed.fire();
		}));
	}

	get on(): boolean { return this.memory.get('on', this.get('enabledByDefault', false)); }
	setOn(on: boolean): Promise<void> { return this.remember('on', on); }

	get steal(): boolean { return this.memory.get('steal', this.get('steal', false)); }
	setSteal(steal: boolean): Promise<void> { return this.remember('steal', steal); }

	/** Where targets are looked for, where no configuration says so. */
	get namespace(): string | undefined { return this.memory.get('namespace'); }
	setNamespace(n: string | undefined): Promise<void> { return this.remember('namespace', n); }

	get context(): string | undefined { return this.memory.get('context'); }
	setContext(c: string | undefined): Promise<void> { return this.remember('context', c); }

	get lastTarget(): string | undefined { return this.memory.get('lastTarget'); }
	setLastTarget(t: string): Promise<void> { return this.remember('lastTarget', t); }

	/** What was chosen for all launches to come. */
	get chosen(): Chosen | undefined { return this.memory.get('chosen'); }
	setChosen(c: Chosen | undefined): Promise<void> { return this.remember('chosen', c); }

	/** The active configuration file; undefined: the one that the daemon finds. */
	get configFile(): string | undefined { return this.memory.get('configFile'); }
	setConfigFile(f: string | undefined): Promise<void> { return this.remember('configFile', f); }

	get kubeconfig(): string | undefined { return this.get('kubeconfig', '') || undefined; }
	get showTraffic(): boolean { return this.get('showTraffic', true); }

	/** The mirrord to run. */
	get binary(): string { return this.get('binaryPath', '') || packed(this.ctx.extensionPath, 'mirrord'); }

	private get memory(): vscode.Memento { return this.ctx.workspaceState; }

	private get<T>(key: string, otherwise: T): T { return vscode.workspace.getConfiguration('mirrord').get(key, otherwise); }

	private async remember(key: string, value: unknown): Promise<void> {
		await this.memory.update(key, value);
		this.changed.fire();
	}
}

/** Where the extension has one of the programs that it was packed with. */
export function packed(extension: string, name: string): string { return path.join(extension, 'bin', name); }
