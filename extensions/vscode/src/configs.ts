import * as vscode from 'vscode';
import type { Daemon } from './daemon';
import type { Problem } from './protocol';
import type { Settings } from './settings';
import { activeFolder, type Starter } from './starter';

const files = '**/.mirrord/*mirrord.{json,toml,yaml,yml}';
const isConfig = /(^|\/)\.mirrord\/[^/]*mirrord\.(json|toml|ya?ml)$/;
const pause = 250; // ms without a keystroke before a file is looked at

/** The configuration files: which one is active, and what is wrong with those that are open. */
export class Configs {
	private readonly problems = vscode.languages.createDiagnosticCollection('mirrord');
	private readonly due = new Map<string, NodeJS.Timeout>();
	private readonly asked = new Map<string, number>(); // versions, so that a late answer does not win

	constructor(
		private readonly daemon: Daemon, private readonly settings: Settings, private readonly starter: Starter, private readonly log: vscode.LogOutputChannel,
	) {}

	register(ctx: vscode.ExtensionContext): void {
		const { workspace } = vscode;
		ctx.subscriptions.push(
			this.problems,
			workspace.onDidOpenTextDocument((d) => { if (this.inUse) this.look(d, 0); }),
			workspace.onDidChangeTextDocument((e) => this.look(e.document, pause)),
			workspace.onDidCloseTextDocument((d) => {
				clearTimeout(this.due.get(d.uri.toString()));
				this.problems.delete(d.uri);
			}),
			{ dispose: () => this.due.forEach((t) => clearTimeout(t)) },
		);
		if (this.inUse) workspace.textDocuments.forEach((d) => this.look(d, 0));
	}

	/** A file that is only shown, where mirrord is off, starts no daemon; an edit does. */
	private get inUse(): boolean { return this.settings.on || this.daemon.connected; }

	async find(): Promise<vscode.Uri[]> {
		const found = await vscode.workspace.findFiles(files, '**/node_modules/**', 100);
		return found.sort((a, b) => a.fsPath.localeCompare(b.fsPath));
	}

	/** Lets the user choose the file that launches use. */
	async select(): Promise<void> {
		const found = await this.find();
		type Item = vscode.QuickPickItem & { file?: string; create?: boolean };
		const items: Item[] = [
			{ label: '$(search) Found by itself', description: '.mirrord/mirrord.json or its like in the workspace folder', picked: !this.settings.configFile },
			...found.map((u) => ({ label: `$(file) ${vscode.workspace.asRelativePath(u)}`, description: u.fsPath === this.settings.configFile ? 'active' : '', file: u.fsPath })),
			{ label: '$(new-file) Create one', create: true },
		];
		const chosen = await vscode.window.showQuickPick(items, { title: 'mirrord: active configuration', placeHolder: 'The file that launches use' });
		if (!chosen) return;
		if (chosen.create) return this.create();
		await this.settings.setConfigFile(chosen.file);
	}

	/** Opens the active configuration, or offers to create one. */
	async open(): Promise<void> {
		const { configFile } = this.settings;
		let file = configFile;
		if (!file) {
			const v = await this.daemon.verify(this.starter.choice({ client: this.starter.client() }));
			file = v.configFile;
		}
		if (!file) return this.create();
		await vscode.window.showTextDocument(vscode.Uri.file(file));
	}

	async create(): Promise<void> {
		const folder = activeFolder();
		if (!folder) throw new Error('a configuration belongs to a folder: open one first');
		const { name, text } = await this.daemon.defaultConfig();
		const file = vscode.Uri.joinPath(folder.uri, '.mirrord', name);
		try {
			await vscode.workspace.fs.stat(file); // what is there is opened, not overwritten
		} catch {
			await vscode.workspace.fs.writeFile(file, Buffer.from(text));
		}
		await vscode.window.showTextDocument(file);
	}

	private look(d: vscode.TextDocument, after: number): void {
		if (d.uri.scheme !== 'file' || !isConfig.test(d.uri.path)) return;
		const key = d.uri.toString();
		clearTimeout(this.due.get(key));
		this.due.set(key, setTimeout(() => {
			this.due.delete(key);
			void this.verify(d);
		}, after));
	}

	private async verify(d: vscode.TextDocument): Promise<void> {
		const key = d.uri.toString();
		const asked = d.version;
		this.asked.set(key, asked);
		try {
			const folder = vscode.workspace.getWorkspaceFolder(d.uri);
			const { problems } = await this.daemon.verify({
				client: this.starter.client(folder), configFile: d.uri.fsPath, overrides: {}, text: d.getText(),
			});
			if (this.asked.get(key) === asked && !d.isClosed) this.problems.set(d.uri, problems.map((p) => diagnostic(d, p)));
		} catch (e) {
			this.log.debug(`verifying ${d.uri.fsPath}: ${e instanceof Error ? e.message : String(e)}`);
		}
	}
}

function diagnostic(d: vscode.TextDocument, p: Problem): vscode.Diagnostic {
	const at = d.validatePosition(new vscode.Position(Math.max(0, p.line - 1), Math.max(0, p.column - 1)));
	const word = d.getWordRangeAtPosition(at, /"[^"]*"|[\w.-]+/);
	const range = word ?? new vscode.Range(at, d.lineAt(at.line).range.end);
	const { Error, Warning } = vscode.DiagnosticSeverity;
	const out = new vscode.Diagnostic(range, (p.key ? `${p.key}: ` : '') + p.message, p.warning ? Warning : Error);
	out.source = 'mirrord';
	return out;
}
